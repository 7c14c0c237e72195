"""Films by checkpoints without diffusion forcing: one window, all frames at the same step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import SkyReelsV2ImageToVideoPipeline, SkyReelsV2Pipeline

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.cost import segment_token_passes
from render_farm.planning.drawing import draw_timeline, draw_windows
from tests.helpers.reference_loop import ReferenceLoop

INPUTS = {"t2v": {}, "i2v": {"image": "a.png"}, "flf2v": {"image": "a.png", "last_image": "b.png"}}
MODEL = {"t2v": "t2v-14b-540p", "i2v": "i2v-14b-720p", "flf2v": "flf2v-1.3b-540p"}


def plan(task: str, /, *, model: str | None = None, changes: dict | None = None, **values):
    spec = replace(spec_of_preset(model or MODEL[task]), **(changes or {}))
    return plan_film(RenderJob(**{"job_id": "a", "prompt": "x", "seed": 1, **INPUTS[task], **values}), spec)


def refusal(task: str, /, **values) -> str:
    with pytest.raises(InvalidJobError) as caught:
        plan(task, **values)
    return "; ".join(map(str, caught.value.problems))


class Loop(ReferenceLoop):
    """`SkyReelsV2Pipeline.__call__` around the transformer's stand-in."""

    __call__ = SkyReelsV2Pipeline.__call__
    prepare_latents = SkyReelsV2Pipeline.prepare_latents
    check_inputs = SkyReelsV2Pipeline.check_inputs


@pytest.mark.parametrize("num_frames", [1, 4, 5, 18, 97, 257])
@pytest.mark.parametrize("num_inference_steps", [1, 3])
def test_the_window_equals_the_reference_loop(num_frames, num_inference_steps):
    film = plan("t2v", num_frames=num_frames, num_inference_steps=num_inference_steps, height=16, width=16)
    loop = Loop(film.job.flow_shift)
    calls: list[tuple[int, ...]] = []

    def denoise(hidden_states, timestep, **_):
        calls.append(tuple(timestep.tolist()) * hidden_states.shape[2])
        return (torch.zeros_like(hidden_states),)

    loop.transformer.__class__ = type("Denoiser", (type(loop.transformer),), {"__call__": lambda _, **k: denoise(**k)})
    _, num_latent_frames = loop.run(num_frames=num_frames, num_inference_steps=num_inference_steps)
    schedule = film.schedule(0)
    assert [schedule.timestep_row(row) for row in range(schedule.num_rows)] == calls
    assert (film.num_segments, film.num_latent_frames) == (1, num_latent_frames)
    assert all(all(row) for row in schedule.updates), "every frame moves in every step"


@pytest.mark.parametrize("task", MODEL)
def test_the_presets_defaults_can_be_rendered(task):
    film = plan(task)
    (window,) = film.windows
    assert film.warnings == ()
    assert window.has_image_channels == window.needs_inputs == (task != "t2v")
    assert (window.num_given_frames, window.num_last_image_frames, window.num_dropped_frames) == (0, 0, 0)
    assert film.job.base_num_frames == film.num_frames == (121 if "720p" in MODEL[task] else 97)
    assert (film.job.flow_shift, film.job.guidance_scale) == ((8, 6) if task == "t2v" else (5, 5))
    rows = film.schedule(0).num_rows
    assert segment_token_passes(film, 0) == 2 * rows * window.num_latent_frames * film.tokens_per_frame


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        ("t2v", {"base_num_frames": 97, "num_frames": 257}, "base_num_frames: 97 is less than num_frames 257, but t2v"),
        ("t2v", {"base_num_frames": 97, "num_frames": 257}, "leave it null, or use a model that renders windows (tiny"),
        ("t2v", {"ar_step": 2}, "ar_step: 2 needs blocks that lag, only diffusion-forcing checkpoints have them; 0"),
        ("t2v", {"causal_block_size": 5}, "causal_block_size: 5 is for diffusion-forcing checkpoints; 1 (the check"),
        ("flf2v", {"num_frames": 1}, "num_frames: 1 has no room for image and last_image; the least is 5"),
        (
            "t2v",
            {"num_frames": 4097},
            "num_frames: 4097 is 1025 latent frames in one window, t2v-14b-540p has positions",
        ),
        ("t2v", {"num_frames": 4097}, "the most is 4093"),
        ("t2v", {"num_inference_steps": 126}, "num_inference_steps: 126 is too many for flow_shift 8"),
        (
            "t2v",
            {"image": "a.png"},
            "task: i2v is not served by t2v-14b-540p; it serves t2v (no inputs); i2v is served",
        ),
        ("t2v", {"video": "a.mp4"}, "v2v is served by tiny, df-1.3b-540p, df-14b-540p, df-14b-720p"),
        ("i2v", {"image": None}, "task: t2v is not served by i2v-14b-720p; it serves i2v (image); t2v is served by"),
        ("i2v", {"last_image": "b.png"}, "task: flf2v is not served by i2v-14b-720p; it serves i2v (image)"),
        ("flf2v", {"last_image": None}, "it serves flf2v (image and last_image); i2v is served by tiny, df-1.3b-540p"),
        ("flf2v", {"image": None}, "image: is missing; task flf2v needs image and last_image: give its URI"),
        ("i2v", {"task": "i2v", "image": None}, "image: is missing; task i2v needs image: give its URI"),
    ],
)
def test_refused_with_the_field_and_a_way_out(task, values, message):
    assert message in refusal(task, **values)


def test_a_transformer_that_wants_the_frame_rate_is_refused():
    assert "model: t2v-14b-540p has a transformer that is told the frame rate" in refusal(
        "t2v", changes={"sample_info": True}
    )


def test_a_saved_block_size_must_divide_the_film():
    saved = {"num_frame_per_block": 5}
    assert plan("t2v", num_frames=77, changes=saved).job.causal_block_size == 5
    assert plan("t2v", num_frames=97, changes=saved, causal_block_size=1).job.causal_block_size == 1
    message = refusal("t2v", num_frames=81, changes=saved)
    assert "5 does not divide window 0, which has 21 latent frames: diffusers fails on it" in message
    assert "num_frames 77 or 97 would work (or causal_block_size 1)" in message


def test_positions_are_counted_for_windows_and_sizes_too():
    few = {"rope_max_len": 20}
    message = refusal("t2v", model="df-1.3b-540p", num_frames=257, changes=few)
    assert "base_num_frames: 97 is 25 latent frames in one window, df-1.3b-540p has positions for 20" in message
    assert "the most is 77" in message
    assert "width: 960 is 60 patches, df-1.3b-540p has positions for 20; the most is 320" in message
    assert "num_frames: 81 is 21 latent" in refusal("t2v", model="df-1.3b-540p", num_frames=81, changes=few)
    closing = refusal("flf2v", model="df-1.3b-540p", num_frames=77, height=320, width=320, changes=few)
    assert closing.endswith(
        "num_frames: 77 is 21 latent frames in one window, df-1.3b-540p has positions for 20; the most is 73"
    )
    plan("flf2v", model="df-1.3b-540p", num_frames=73, height=320, width=320, changes=few)


def test_what_is_rendered_otherwise_than_expected_is_said():
    (long,) = plan("t2v", num_frames=257).warnings
    assert long.startswith("257 frames are one window for t2v-14b-540p, whose default is 97: memory and time grow")
    (idle,) = plan("i2v", addnoise_condition=20, overlap_history=17).warnings
    assert idle == "overlap_history and addnoise_condition have no effect on a film of one window"
    assert plan("i2v", addnoise_condition=0).warnings == ()
    (one,) = plan("i2v", prefix_noise="once").warnings
    assert one == "prefix_noise has no effect on a film of one window"
    assert "2 prompts for 1 segments" in plan("t2v", prompt=["x", "y"]).warnings[0]
    assert "101 are rendered" in plan("t2v", num_frames=100).warnings[0]


def test_the_picture_names_the_images():
    assert draw_windows(plan("flf2v"))[0].endswith("frames  1-97, with image and last_image")
    assert draw_timeline(plan("flf2v")) == []


def test_the_reference_wants_two_frames_for_two_images():
    """Why one frame is refused: diffusers makes f - 2 grey frames between them."""
    with pytest.raises(RuntimeError, match="negative dimension"):
        SkyReelsV2ImageToVideoPipeline.prepare_latents(
            type("Self", (), {"vae_scale_factor_temporal": 4, "vae_scale_factor_spatial": 8})(),
            torch.zeros(1, 3, 16, 16),
            1,
            height=16,
            width=16,
            num_frames=1,
            last_image=torch.zeros(1, 3, 16, 16),
        )
