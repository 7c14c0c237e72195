"""`drift: adain:F` does to the windows after the first what diffusers' own function does."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_i2v_long_multi_prompt import adain_normalize_latents

from render_farm import load_engine
from render_farm.engine.denoising.drift import moved_toward
from render_farm.errors import UsageError
from tests.helpers import films

TOLERANCE = 1e-5


def latents(seed: int, *, scale: float, shift: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 16, 5, 8, 12, generator=generator) * scale + shift


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_statistics_are_those_of_diffusers(share: float) -> None:
    now, first = latents(1, scale=2.0, shift=0.7), latents(2, scale=0.5, shift=-0.3)
    moved = moved_toward(now, first, share)
    assert (moved - adain_normalize_latents(now, first, share)).abs().max() <= TOLERANCE
    if share == 1.0:
        assert torch.allclose(moved.mean((2, 3, 4)), first.mean((2, 3, 4)), atol=1e-4)
        assert torch.allclose(moved.std((2, 3, 4)), first.std((2, 3, 4)), atol=1e-4)


def test_latents_without_any_spread_stay_finite() -> None:
    assert moved_toward(torch.ones(1, 2, 3, 4, 4), latents(2, scale=1.0, shift=0.0)[:, :2], 0.5).isfinite().all()


def test_windows_after_the_first_are_moved() -> None:
    engine = load_engine("tiny", device="cpu", dtype="float32")
    plan = engine.plan(films.job("a", **films.THREE_SEGMENTS, drift="adain:0.5"))
    plain = engine.plan(films.job("a", **films.THREE_SEGMENTS))
    embeddings = engine.encode_prompts(plan.texts)
    pieces: list[torch.Tensor] = []
    for window in plan.windows:
        history = torch.cat(pieces, dim=2)[:, :, -window.num_history_frames :] if pieces else None
        raw = engine.render_segment(plain, window.index, history=history, embeddings=embeddings)
        expected = adain_normalize_latents(raw, pieces[0], 0.5) if pieces else raw
        pieces.append(expected)
    film = engine.render(films.job("a", **films.THREE_SEGMENTS, drift="adain:0.5"))
    assert (film.latents - torch.cat(pieces, dim=2)).abs().max() <= 1e-4
    with pytest.raises(UsageError, match="first segment"):
        engine.render_segment(plan, 1, history=pieces[0][:, :, -2:], embeddings=embeddings)
