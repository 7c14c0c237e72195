"""How far two renderings of a film are apart, and how far they may be.

float32 on the CPU is the contract: latents within 1e-4, frames within one level. Elsewhere two right kernels round
differently and the steps carry it on: there the root mean square of the difference is held against that of the
latents themselves. A wrong mask, timestep or noise moves them by a third and more (`tests/parity/test_sensitivity.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

EXACT_LATENTS = 1e-4
EXACT_LEVELS = 1
RELATIVE_LATENTS = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.1}
"""On a GPU, and in half precision anywhere. Not measured on a GPU yet."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The differences, and the verdict."""

    largest: float
    """max |ours - theirs| of the latents."""
    relative: float
    """Root mean square of the latents' difference over that of the reference."""
    largest_level: int
    """Of the frames, of 255."""
    mean_level: float
    passed: bool
    allowed: str
    """The limit, for people."""


def compare(
    ours: Tensor, theirs: Tensor, our_frames: np.ndarray, their_frames: np.ndarray, *, device_type: str, dtype: str
) -> Difference:
    """Compare latents (1 C T h w) and frames (F H W 3, uint8). Other shapes differ without measure."""
    if ours.shape != theirs.shape or our_frames.shape != their_frames.shape:
        shapes = f"equal shapes, not {tuple(ours.shape)} and {tuple(theirs.shape)}, {our_frames.shape} and "
        infinite = float("inf")
        return Difference(
            largest=infinite,
            relative=infinite,
            largest_level=255,
            mean_level=255.0,
            passed=False,
            allowed=f"{shapes}{their_frames.shape}",
        )
    difference = ours - theirs
    largest = difference.abs().max().item()
    relative = (difference.square().mean() / theirs.square().mean()).sqrt().item()
    levels = np.abs(our_frames.astype(np.int16) - their_frames.astype(np.int16))
    if device_type == "cpu" and dtype == "float32":
        passed = largest <= EXACT_LATENTS and int(levels.max()) <= EXACT_LEVELS
        allowed = f"latents {EXACT_LATENTS:g}, frames {EXACT_LEVELS} level"
    else:
        passed = relative <= RELATIVE_LATENTS[dtype]
        allowed = f"latents {RELATIVE_LATENTS[dtype]:g} of their own size"
    return Difference(
        largest=largest,
        relative=relative,
        largest_level=int(levels.max()),
        mean_level=float(levels.mean()),
        passed=passed,  # false for nan
        allowed=allowed,
    )
