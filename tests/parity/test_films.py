"""What has no reference: prompt lists, resuming, cancelling. All bit-identical."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from render_farm.engine import Engine, StepProgress, load_engine
from render_farm.errors import Cancelled, InvalidJobError, UsageError
from tests.helpers.parity_jobs import LONG, make_job

BLOCKS = {"causal_block_size": 5, "ar_step": 2, "addnoise_condition": 20}


@pytest.mark.parametrize("parameters", [{}, BLOCKS])
def test_equal_prompts_equal_one_string(parameters: dict, engine: Engine) -> None:
    prompt = "a red ball"
    one = engine.render(make_job(num_frames=77, **LONG, **parameters, prompt=prompt))
    three = engine.render(make_job(num_frames=77, **LONG, **parameters, prompt=(prompt, prompt, prompt)))
    assert torch.equal(one.latents, three.latents)
    assert one.plan.render_key == three.plan.render_key


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_changing_a_prompt_leaves_earlier_segments_as_they_are(changed: int, engine: Engine) -> None:
    prompts = ["a red ball", "a blue cube", "a green ball over water"]
    before = engine.render(make_job(num_frames=77, **LONG, prompt=tuple(prompts)))
    prompts[changed] = "sand at night"
    after = engine.render(make_job(num_frames=77, **LONG, prompt=tuple(prompts)))
    kept = before.plan.windows[changed - 1].end if changed else 0
    assert torch.equal(before.latents[:, :, :kept], after.latents[:, :, :kept])
    assert not torch.equal(before.latents[:, :, kept:], after.latents[:, :, kept:])


def test_the_last_prompt_repeats(engine: Engine) -> None:
    two = engine.render(make_job(num_frames=77, **LONG, prompt=("a red ball", "a blue cube")))
    three = engine.render(make_job(num_frames=77, **LONG, prompt=("a red ball", "a blue cube", "a blue cube")))
    assert torch.equal(two.latents, three.latents)


@pytest.mark.parametrize("parameters", [{}, BLOCKS, {**BLOCKS, "prefix_noise": "once"}, {"causal_block_size": 2}])
def test_resuming_between_any_two_segments(parameters: dict, engine: Engine, model_folder: Path) -> None:
    """A fresh engine that is given only the latents so far continues the film to the same bits."""
    job = make_job(num_frames=77, **LONG, **parameters)
    whole = engine.render(job).latents
    for resumed in (1, 2):
        other = load_engine(model_folder, device="cpu", dtype="float32")
        plan = other.plan(job)
        embeddings = other.encode_prompts(plan.texts)
        film = whole[:, :, : plan.windows[resumed - 1].end].clone()
        for window in plan.windows[resumed:]:
            history = film[:, :, -window.num_history_frames :].clone()
            piece = other.render_segment(plan, window.index, history=history, embeddings=embeddings)
            film = torch.cat([film, piece], dim=2)
        assert torch.equal(film, whole)


def test_noise_on_the_prefix_does_not_depend_on_the_global_generator(engine: Engine) -> None:
    job = make_job(num_frames=57, **LONG, addnoise_condition=20)
    torch.manual_seed(1)
    first = engine.render(job).latents
    torch.manual_seed(2)
    assert torch.equal(first, engine.render(job).latents)


def test_every_step_is_reported(engine: Engine) -> None:
    seen: list[StepProgress] = []
    video = engine.render(make_job(num_frames=57, **LONG, causal_block_size=5, ar_step=2), on_progress=seen.append)
    expected = [
        (segment, step + 1, video.plan.schedule(segment).num_rows)
        for segment in range(2)
        for step in range(video.plan.schedule(segment).num_rows)
    ]
    assert [(p.segment, p.step, p.num_steps) for p in seen] == expected
    assert all(p.num_segments == 2 for p in seen)


def test_cancelling_at_a_step_leaves_the_engine_usable(engine: Engine) -> None:
    job = make_job(num_frames=57, **LONG, causal_block_size=5, ar_step=2)
    before = engine.render(job).latents

    def cancel(progress: StepProgress) -> None:
        if progress.step == 5:
            raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        engine.render(job, on_progress=cancel)
    assert torch.equal(before, engine.render(job).latents)


def test_a_segment_checks_the_latents_it_continues(engine: Engine) -> None:
    job = make_job(num_frames=57, **LONG)
    plan = engine.plan(job)
    embeddings = engine.encode_prompts(plan.texts)
    with pytest.raises(UsageError, match=r"segment 1 continues latents of shape \(1, 16, 5, 4, 6\), given none"):
        engine.render_segment(plan, 1, history=None, embeddings=embeddings)
    with pytest.raises(UsageError, match="given"):
        engine.render_segment(plan, 1, history=torch.zeros(1, 16, 4, 4, 6), embeddings=embeddings)


def test_a_job_for_another_model_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidJobError, match="model: is tiny, but this engine has loaded"):
        engine.plan(make_job(model="tiny"))


@pytest.mark.parametrize(
    "parameters",
    [
        {"image": "a.png", "causal_block_size": 5},
        {"video": "a.mp4"},
        {"task": "i2v"},
        {"ulysses": 2},
    ],
)
def test_what_is_not_rendered_is_refused_before_any_work(parameters: dict, engine: Engine) -> None:
    with pytest.raises(InvalidJobError):
        engine.render(make_job(num_frames=17, **parameters))
