"""Resolution of nulls and the render key."""

from __future__ import annotations

from dataclasses import replace

from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.cost import film_token_passes, segment_token_passes

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
    late = plan_film(RenderJob(job_id="a", prompt="x", num_frames=97, ar_step=4, causal_block_size=5), FACTS)
    assert segment_token_passes(sync, 0) == 16 * 25 * 4 * 2
    assert segment_token_passes(late, 0) == segment_token_passes(sync, 0)
    noisy = plan_film(
        RenderJob(job_id="a", prompt="x", num_frames=257, addnoise_condition=20, ar_step=4, causal_block_size=5), FACTS
    )
    clean = plan_film(RenderJob(job_id="a", prompt="x", num_frames=257, ar_step=4, causal_block_size=5), FACTS)
    assert film_token_passes(noisy) > film_token_passes(clean)
