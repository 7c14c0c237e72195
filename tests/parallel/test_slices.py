"""Every token is on one rank, padding is on none, and frames come back as they were."""

from __future__ import annotations

import itertools

import pytest
import torch

from render_farm.parallel.slices import Slices, from_frames, to_frames

COUNTS = list(itertools.product([1, 4, 15, 16], [1, 2, 3, 8]))


@pytest.mark.parametrize(("num_tokens", "num_ranks"), COUNTS)
def test_slices_hold_every_token_once(num_tokens: int, num_ranks: int) -> None:
    slices = Slices(num_tokens=num_tokens, num_ranks=num_ranks)
    tokens = torch.arange(1, 3 * num_tokens + 1).view(1, 3, num_tokens, 1)
    parts = [slices.take(tokens, rank, 2) for rank in range(num_ranks)]
    assert {part.shape for part in parts} == {(1, 3, slices.width, 1)}
    assert torch.equal(torch.cat(parts, dim=2)[:, :, :num_tokens], tokens)
    assert sum(slices.num_real(rank, 1) for rank in range(num_ranks)) == num_tokens == slices.num_real(0, num_ranks)


@pytest.mark.parametrize(("num_tokens", "num_ranks"), COUNTS)
def test_frames_are_put_together_and_taken_apart(num_tokens: int, num_ranks: int) -> None:
    slices = Slices(num_tokens=num_tokens, num_ranks=num_ranks)
    frames = torch.randn(1, 5, num_tokens, 2, 3)  # B F S H D
    parts = [slices.take(frames, rank, 2).flatten(1, 2) for rank in range(num_ranks)]
    arrived = torch.cat(parts, dim=1)  # B (P F N) H D, as an exchange leaves it
    ordering = {"num_ranks": num_ranks, "width": slices.width, "num_real": num_tokens}
    whole = to_frames(arrived, **ordering)
    assert torch.equal(whole, frames.flatten(1, 2))
    assert torch.equal(from_frames(whole, **ordering, num_frames=5), arrived)
