"""How visible the joins between a film's segments are: the change at each join, against the usual change around it.

Frames are H W 3, uint8 RGB. The change between two frames is the mean absolute difference of their levels (0-255), over
every n-th pixel of large frames. The usual change is the median within the two segments that meet at the join, so that
a calm film is not compared with a lively one, and memory does not grow with the film.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

VISIBLE = 3.0
"""From this score on a join is called visible: the picture changes there three times as much as it usually does."""
_PIXELS = 1 << 16
_STILL = 0.25
"""Levels, added to both changes: rounding in a still picture is not a join."""


@dataclass(frozen=True, kw_only=True)
class Seam:
    """One join of a film."""

    segment: int
    """The segment that begins there, counted from 0."""
    frame: int
    """Its first pixel frame in the video, counted from 0."""
    score: float
    """About 1 when nothing is to be seen."""


class SeamMeter:
    """Takes a film's frames in order, told where segments begin; a few numbers a frame of two segments are kept."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._num_frames = 0
        self._segment = 0
        self._before: list[float] = []
        """Changes within the segment before the one that is being taken."""
        self._inside: list[float] = []
        self._join: tuple[int, int, float] | None = None
        self._begins: int | None = None
        self._seams: list[Seam] = []

    def begin(self, segment: int) -> None:
        """The next frame is the first of `segment`."""
        self._begins = segment

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame."""
        stride = max(1, math.isqrt(frame.shape[0] * frame.shape[1] // _PIXELS))
        seen = frame[::stride, ::stride].astype(np.int16)
        change = None if self._last is None else float(np.abs(seen - self._last).mean())
        if self._begins is not None and change is not None:
            self._close_join()
            self._before, self._inside = self._inside, []
            self._join = (self._begins, self._num_frames, change)
        elif change is not None:
            self._inside.append(change)
        self._begins = None
        self._last = seen
        self._num_frames += 1

    def seams(self) -> tuple[Seam, ...]:
        """Every join so far, the last one by what is known of its second segment."""
        self._close_join()
        return tuple(self._seams)

    def _close_join(self) -> None:
        if self._join is None:
            return
        segment, frame, change = self._join
        usual = float(np.median([*self._before, *self._inside])) if self._before or self._inside else change
        self._seams.append(Seam(segment=segment, frame=frame, score=round((change + _STILL) / (usual + _STILL), 3)))
        self._join = None


def worst(seams: tuple[Seam, ...]) -> float | None:
    """The score of the most visible join, or None for a film without one."""
    return max((seam.score for seam in seams), default=None)
