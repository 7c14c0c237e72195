"""Which tokens of a frame a rank holds, and in which order they arrive from the others.

Every frame of S tokens is cut into P equal slices, one per rank, in the order of the ranks; the last ones are filled up
with padding when P does not divide S. A tensor that an exchange has put together is ordered (rank, frame, token); whole
frames are (frame, token) without padding.

Shapes: B batch, F frames, P ranks, N tokens of a frame on one rank, H heads, D channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The slices of a frame of `num_tokens` over `num_ranks`."""

    num_tokens: int
    num_ranks: int

    @property
    def width(self) -> int:
        """Tokens of a frame on each rank, padding included."""
        return -(-self.num_tokens // self.num_ranks)

    def num_real(self, first: int, count: int) -> int:
        """How many tokens of a frame ranks [first, first + count) hold together, padding left out."""
        return max(0, min(self.num_tokens, (first + count) * self.width) - first * self.width)

    def take(self, tokens: Tensor, rank: int, dim: int) -> Tensor:
        """One rank's tokens along `dim`, filled up with zeros; contiguous."""
        real = tokens.narrow(dim, min(rank * self.width, self.num_tokens), self.num_real(rank, 1))
        missing = self.width - real.shape[dim]
        if missing:
            real = pad(real, (0, 0) * (tokens.dim() - 1 - dim % tokens.dim()) + (0, missing))
        return real.contiguous()


def to_frames(tokens: Tensor, *, num_ranks: int, width: int, num_real: int) -> Tensor:
    """From (B, P * F * N, H, D), ordered (rank, frame, token), to whole frames (B, F * num_real, H, D)."""
    parts: Tensor = tokens.unflatten(1, (num_ranks, -1, width)).transpose(1, 2)  # B F P N H D
    return parts.flatten(2, 3)[:, :, :num_real].flatten(1, 2)


def from_frames(tokens: Tensor, *, num_ranks: int, width: int, num_real: int, num_frames: int) -> Tensor:
    """The inverse of `to_frames`, with zeros for padding."""
    frames = tokens.unflatten(1, (num_frames, num_real))
    missing = num_ranks * width - num_real
    if missing:
        frames = torch.cat((frames, frames.new_zeros((*frames.shape[:2], missing, *frames.shape[3:]))), dim=2)
    parts: Tensor = frames.unflatten(2, (num_ranks, width)).transpose(1, 2)  # B P F N H D
    return parts.flatten(1, 3)
