"""Controls: each error that the parity tests are there to find moves these small models by far more than they allow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from render_farm.engine import Engine
from render_farm.planning import FilmPlan
from tests.helpers.film_rounding import rounding_of_film
from tests.helpers.parity_jobs import LONG, TOLERANCE, make_job

SEEN = 10 * TOLERANCE

WRONG = {
    "no causal blocks": ({"causal_block_size": 5}, {"causal_block_size": 1}),
    "other block size": ({"causal_block_size": 5}, {"causal_block_size": 2}),
    "no lag between blocks": ({"causal_block_size": 5, "ar_step": 1}, {"causal_block_size": 5}),
    "sampler without the aliasing": ({}, {"sampler": "corrected"}),
    "sample info of another frame rate": ({"fps": 16}, {"fps": 24}),
    "other prompt": ({}, {"prompt": "a blue cube"}),
    "other negative prompt": ({}, {"negative_prompt": "water"}),
    "other shift of the noise schedule": ({}, {"flow_shift": 3.1}),
    "clean prefix": ({"addnoise_condition": 20}, {"addnoise_condition": 0}),
    "noise on the prefix once": ({"addnoise_condition": 20}, {"addnoise_condition": 20, "prefix_noise": "once"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_difference_would_be_seen(name: str, engine: Engine) -> None:
    right, wrong = (engine.render(make_job(num_frames=57, **LONG, **values)).latents for values in WRONG[name])
    assert (right - wrong).abs().max() > SEEN


def test_caching_a_prefix_that_changes_would_be_seen(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(num_frames=57, **LONG, causal_block_size=5, ar_step=2, addnoise_condition=20)
    right = engine.render(job).latents
    monkeypatch.setattr(FilmPlan, "prefix_changes", lambda plan, index: False)
    assert (engine.render(job).latents - right).abs().max() > SEEN


def test_the_cache_does_not_change_the_result(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(num_frames=57, **LONG, causal_block_size=5, ar_step=2)
    cached = engine.render(job)
    calls = _count_computed_frames(engine, monkeypatch)
    engine.render(job)
    with_cache, calls[0] = calls[0], 0
    monkeypatch.setattr("render_farm.engine.engine.cache_budget_bytes", lambda *_: 0)
    recomputed = engine.render(job).latents
    assert calls[0] > with_cache, "without the cache more frames are computed"
    assert (cached.latents - recomputed).abs().max() <= rounding_of_film(engine, cached)


def _count_computed_frames(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count = [0]
    forward = type(engine.transformer).forward

    def counting(self: Any, latents: torch.Tensor, *args: Any, **options: Any) -> Any:
        count[0] += latents.shape[2]
        return forward(self, latents, *args, **options)

    monkeypatch.setattr(type(engine.transformer), "forward", counting)
    return count
