"""Guidance for part of the steps equals the pipeline whose second branch repeats its last difference from then on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from render_farm.engine import Engine, load_engine
from render_farm.engine.options import EngineOptions
from render_farm.planning import FilmPlan
from tests.helpers.parity_jobs import LONG, TOLERANCE, make_job
from tests.helpers.reference import make_inputs, pipeline_for, render_reference

BLOCKS = {"causal_block_size": 5, "ar_step": 2}
FULL = {**BLOCKS, "block_attention": "full"}

FILMS: dict[str, dict[str, Any]] = {
    "synchronous": {"num_frames": 17},
    "one step of the four": {"num_frames": 17, "cache": "guidance:0"},
    "three steps": {"num_frames": 17, "cache": "guidance:0.75"},
    "long, short last window, addnoise 20": {"num_frames": 69, **LONG, "addnoise_condition": 20},
    "long, causal blocks, ar_step 2": {"num_frames": 77, **LONG, **BLOCKS},
    "long, causal blocks, ar_step 5": {"num_frames": 77, **LONG, **BLOCKS, "ar_step": 5},
    "causal blocks that finish while later ones wait": {
        "num_frames": 57,
        "causal_block_size": 3,
        "ar_step": 6,
        "num_inference_steps": 10,
        "cache": "guidance:0.2",
    },
    "long, full blocks, ar_step 2": {"num_frames": 77, **LONG, **FULL},
    "lag without blocks": {"num_frames": 17, "ar_step": 1},
    "first and last image": {"num_frames": 21, "image": "a.png", "last_image": "b.png", "fit": "stretch"},
}


@contextmanager
def second_branch_in_part(transformer: Any, plan: FilmPlan) -> Iterator[None]:
    """The transformer is called in pairs, with and without the prompt, row after row. For a frame beyond its guided
    steps the second call gives what its last difference makes of the first."""
    forward, rows = transformer.forward, _guided_rows(plan)
    kept: dict[str, Tensor] = {}

    def patched(*args: Any, **kwargs: Any) -> Any:
        (out,) = forward(*args, **kwargs)
        if "with" not in kept:
            kept["with"] = out
            return (out,)
        first, is_guided = kept.pop("with"), next(rows)[: out.shape[2]]
        if "difference" not in kept or kept["difference"].shape != out.shape:
            kept["difference"] = torch.zeros_like(out)
        is_guided = torch.nn.functional.pad(is_guided, (0, out.shape[2] - len(is_guided)), value=True)
        kept["difference"] = torch.where(is_guided[:, None, None], first - out, kept["difference"])
        return (first - kept["difference"],)

    with mock.patch.object(transformer, "forward", patched):
        yield


def _guided_rows(plan: FilmPlan) -> Iterator[Tensor]:
    for window in plan.windows:
        schedule = plan.schedule(window.index)
        for indices in schedule.indices:
            steps = torch.tensor(indices).repeat_interleave(schedule.block_size)
            yield steps <= plan.num_guided_steps


@pytest.mark.parametrize("kv_cache", ["on", "off"])
@pytest.mark.parametrize("name", FILMS)
def test_latents_equal_the_pipelines(name: str, kv_cache: str, model_folder: Any, pipeline: Any) -> None:
    job = make_job(**{"cache": "guidance:0.5", "guidance_scale": 3.0, **FILMS[name]})
    engine = load_engine(model_folder, device="cpu", dtype="float32", options=EngineOptions(kv_cache=kv_cache))
    plan = engine.plan(job)
    if kv_cache == "off" and not plan.schedule(0).is_causal:
        pytest.skip("nothing is kept")
    inputs = None if plan.job.task == "t2v" else make_inputs(plan.job.task)
    ours = engine.render(job, inputs=inputs).latents
    with second_branch_in_part(pipeline.transformer, plan):
        theirs = render_reference(pipeline_for(pipeline, plan.job.task), plan, inputs=inputs)
    exact = engine.render(make_job(**{"guidance_scale": 3.0, **FILMS[name], "cache": "off"}), inputs=inputs).latents
    difference = (ours - theirs).abs().max().item()
    print(f"largest difference {difference:.1e}")  # shown by `pytest -rP`
    assert difference <= TOLERANCE
    assert (ours - exact).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("parameters", [{"num_frames": 17}, {"num_frames": 77, **LONG, **BLOCKS}])
def test_the_whole_share_is_exact(parameters: dict[str, Any], engine: Engine) -> None:
    exact, whole = (engine.render(make_job(**parameters, cache=cache)).latents for cache in ("off", "guidance:1"))
    assert torch.equal(exact, whole)


@pytest.mark.parametrize("parameters", [{"num_frames": 17}, {"num_frames": 77, **LONG, **BLOCKS}])
def test_a_step_cache_that_skips_nothing_changes_nothing(parameters: dict[str, Any], engine: Engine) -> None:
    caches = ("guidance:0.5", "first_block:0+guidance:0.5")
    alone, joined = (engine.render(make_job(**parameters, cache=cache)).latents for cache in caches)
    assert torch.equal(alone, joined)


def test_a_step_cache_and_guidance_in_part_render_a_film_together(engine: Engine) -> None:
    job = make_job(num_frames=77, **LONG, **BLOCKS, num_inference_steps=12, cache="first_block:0.5+guidance:0.5")
    skipped: list[int] = []
    film = engine.render(job, on_progress=lambda progress: skipped.append(progress.num_skipped))
    assert torch.isfinite(film.latents).all()
    assert max(skipped) > 0
    assert film.plan.approximations == ("cache first_block:0.5+guidance:0.5",)
