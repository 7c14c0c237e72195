"""Resolution of nulls and the render key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm.job import RenderJob
from render_farm.models import PRESETS
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.cost import segment_token_passes

FACTS = spec_of_preset("tiny", fingerprint="f")


def key(**values) -> str:
    return plan_film(RenderJob(**{"job_id": "a", "prompt": "x", "seed": 1, **values}), FACTS).render_key


def test_the_default_seed_is_of_the_job_id():
    assert plan_film(RenderJob(job_id="a", prompt="x"), FACTS).job.seed == 0xCA978112


def test_the_key_changes_with_what_touches_pixels_only():
    base = key()
    assert base == key() == key(priority=90, owner="me", quality=3, tags={"a": "b"}) == key(job_id="b")
    changed = [
        key(prompt="y"),
        key(seed=2),
        key(num_frames=101),
        key(height=96),
        key(fps=16),
        key(guidance_scale=2),
        key(sampler="corrected"),
        key(negative_prompt="z"),
        key(ar_step=1),
        key(addnoise_condition=20),
    ]
    assert len({base, *changed}) == len(changed) + 1


OLD_KEYS = {
    "5fbe43fe98a6": {},
    "5b63b8313f32": {"num_frames": 257, "ar_step": 2, "causal_block_size": 5},
    "fe20ec8b1ba2": {"cache": "first_block:0.1"},
}


@pytest.mark.parametrize("known", OLD_KEYS)
def test_films_from_before_a_column_was_there_keep_their_keys(known):
    spec = spec_of_preset("tiny", dtype="float32", fingerprint="f" * 12)
    assert plan_film(RenderJob(job_id="a", prompt="x", guidance_scale=3, **OLD_KEYS[known]), spec).render_key == known


def test_block_attention_is_in_the_key_where_it_matters():
    blocks = {"causal_block_size": 5, "ar_step": 2}
    assert key(block_attention="full") == key(block_attention="causal") == key()
    assert key(**blocks, block_attention="full") != key(**blocks, block_attention="causal") == key(**blocks)


def test_guidance_for_half_of_the_steps_computes_three_quarters():
    whole = plan_film(RenderJob(job_id="a", prompt="x", num_frames=97), FACTS)
    half = plan_film(RenderJob(job_id="a", prompt="x", num_frames=97, cache="guidance:0.5"), FACTS)
    assert half.num_branches(0) == (2,) * 8 + (1,) * 8
    assert 4 * segment_token_passes(half, 0) == 3 * segment_token_passes(whole, 0)
    assert half.approximations == ("cache guidance:0.5",)
    unguided = RenderJob(job_id="a", prompt="x", num_frames=97, cache="guidance:0.5", guidance_scale=1)
    assert plan_film(unguided, FACTS).num_branches(0) == (1,) * 16


def test_few_steps_have_defaults_of_their_own():
    job = plan_film(RenderJob(job_id="a", prompt="x", sampler="distilled"), FACTS).job
    assert (job.step_list, job.num_inference_steps) == ((1000, 750, 500, 250), 4)
    assert (job.guidance_scale, job.flow_shift, job.guided) == (1.0, 5.0, False)
    own = RenderJob(job_id="a", prompt="x", sampler="distilled", step_list=[900, 300], guidance_scale=2, flow_shift=3)
    job = plan_film(own, FACTS).job
    assert (job.step_list, job.num_inference_steps, job.guidance_scale, job.flow_shift) == ((900, 300), 2, 2.0, 3.0)
    assert len({key(sampler="distilled"), key(sampler="distilled", step_list=[1000, 500]), key()}) == 3


def test_published_checkpoints_attend_fully_where_a_job_does_not_say():
    def attention(model: str) -> str:
        return plan_film(RenderJob(job_id="a", prompt="x"), spec_of_preset(model)).job.block_attention

    found = {name: attention(name) for name, preset in PRESETS.items() if "t2v" in preset.tasks}
    assert found == {name: "full" if name.startswith("df-") else "causal" for name in found}


def test_the_key_knows_the_weights_and_the_dtype_but_not_the_models_name():
    job = RenderJob(job_id="a", prompt="x")
    base = plan_film(job, FACTS).render_key
    assert plan_film(job, replace(FACTS, name="elsewhere")).render_key == base
    assert plan_film(job, replace(FACTS, fingerprint="g")).render_key != base
    assert plan_film(job, replace(FACTS, dtype="float32")).render_key != base


def test_equal_prompts_equal_one_string():
    assert key(prompt=["x", "x", "x"]) == key(prompt="x")
    assert key(prompt=["x", "y", "y"]) == key(prompt=["x", "y"])
    assert key(prompt=["x", "y", "x"]) != key(prompt=["x", "y"])


def test_texts_are_named_once():
    film = plan_film(RenderJob(job_id="a", prompt=["x", "y", "x"], num_frames=257, negative_prompt="y"), FACTS)
    assert film.texts == ("x", "y")
    assert plan_film(RenderJob(job_id="a", prompt="x", guidance_scale=1.0), FACTS).texts == ("x",)


def test_asynchronous_work_counts_only_the_blocks_that_run():
    sync = plan_film(RenderJob(job_id="a", prompt="x", num_frames=97), FACTS)
    late_job = RenderJob(job_id="a", prompt="x", num_frames=97, ar_step=4, causal_block_size=5)
    late = plan_film(late_job, FACTS)
    assert segment_token_passes(sync, 0) == 16 * 25 * 16 * 2
    assert segment_token_passes(late, 0) == segment_token_passes(sync, 0)
    full = plan_film(replace(late_job, block_attention="full"), FACTS)
    assert segment_token_passes(full, 0) == full.schedule(0).num_rows * 25 * 16 * 2
    assert full.schedule(0).num_rows == 16 + 4 * 4
    noisy = plan_film(
        RenderJob(job_id="a", prompt="x", num_frames=257, addnoise_condition=20, ar_step=4, causal_block_size=5), FACTS
    )
    clean = plan_film(RenderJob(job_id="a", prompt="x", num_frames=257, ar_step=4, causal_block_size=5), FACTS)
    assert segment_token_passes(noisy, 1) > segment_token_passes(clean, 1)
