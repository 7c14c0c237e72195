"""`FrameSpan`: which latent frames one pass of the transformer computes, and which keys its queries see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FrameSpan:
    """Frames [start, stop) of a window; all are counts of latent frames from the window's start.

    Frames before `start` are in the key/value cache, frames from `stop` on have not started: neither is computed.
    """

    start: int
    stop: int
    output_start: int
    """Predictions are returned for [output_start, stop); the frames before are computed for their keys and values."""
    num_stored: int = 0
    """How many frames from `start` on have keys and values that no later pass changes; they are kept."""
    block_size: int = 1
    """c > 1: frames see their own block of c and all before. 1: every frame sees every frame."""

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.output_start < self.stop
        assert self.start + self.num_stored <= self.stop
        assert self.block_size > 1 or (self.start == 0 and self.num_stored == 0), "without blocks nothing is final"
        assert self.start % self.block_size == 0 and self.stop % self.block_size == 0

    @property
    def num_frames(self) -> int:
        return self.stop - self.start

    def query_groups(self, first_frame: int) -> Iterator[tuple[int, int, int]]:
        """Frames that see the same keys, as (first query, end of queries, end of keys), for queries from `first_frame`.

        Keys start at frame 0 of the window. No mask is needed: each group is one plain attention call.
        """
        if self.block_size == 1:
            yield first_frame, self.stop, self.stop
            return
        for first in range(first_frame, self.stop, self.block_size):
            yield first, first + self.block_size, first + self.block_size
