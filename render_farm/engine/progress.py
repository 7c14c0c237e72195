"""What a running render reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """One denoising step is done."""

    segment: int
    """Index of the segment, from 0."""
    num_segments: int
    step: int
    """Steps done of this segment, from 1."""
    num_steps: int
    """Of this segment (more than the inference steps when blocks lag behind each other)."""
    num_skipped: int = 0
    """Steps so far that an approximate cache has skipped."""
    kv_cache_bytes: int = 0
    """What the keys and values of finished blocks take now, on this rank."""


OnStep = Callable[[StepProgress], None]
"""Called after every step; may raise `render_farm.errors.Cancelled` to stop."""
