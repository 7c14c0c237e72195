"""`[checks]`: from where on something in a film is a finding. The defaults are measured (`tests/benchmarks/checks.py`).

Lightness is that of CIE Lab, 0 to 100. Levels are those of 8-bit pixels, 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from render_farm.config import Table, setting

_NOT_NEGATIVE = {"ge": 0, "le": 1000}
_FRAMES = {"ge": 1, "le": 100_000}


@dataclass(frozen=True, kw_only=True)
class CheckLimits(Table):
    """Thresholds of the checks of pictures. A larger one finds less, but for `flat_spread` and `frozen_levels`."""

    variables: ClassVar[str] = "RENDER_FARM_CHECK_"

    flat_spread: float = setting(
        1.0,
        "A frame whose lightness and colours spread less than this (standard deviation in Lab) is `flat`, or `black`.",
        limits=_NOT_NEGATIVE,
    )
    black_lightness: float = setting(
        8.0, "A flat frame that is darker than this is `black`.", unit="lightness", limits=_NOT_NEGATIVE
    )
    frozen_levels: float = setting(
        0.1,
        "Frames that differ by no more than this from the ones four frames before are `frozen`.",
        unit="levels",
        limits=_NOT_NEGATIVE,
    )
    frozen_frames: int = setting(24, "They are, from so many in a row on.", unit="frames", limits=_FRAMES)
    cut_levels: float = setting(
        12.0,
        "A frame that differs from the one before by this much can be a `cut`.",
        unit="levels",
        limits=_NOT_NEGATIVE,
    )
    cut_ratio: float = setting(
        2.0, "It is one when that is so many times the largest other change around it.", limits=_NOT_NEGATIVE
    )
    seam_ratio: float = setting(
        1.6,
        "A join between segments where the picture changes so many times as much as anywhere around it is a `seam`.",
        limits=_NOT_NEGATIVE,
    )
    seam_score: float = setting(3.0, "So is one with this `seam_score`.", limits=_NOT_NEGATIVE)
    seam_lightness: float = setting(
        1.5,
        "So is one where all of the picture gets lighter, darker, or of another tint by this much, and `seam_ratio` "
        "times as much as between any two frames around it.",
        unit="lightness",
        limits=_NOT_NEGATIVE,
    )
    flash_lightness: float = setting(
        8.0,
        "All of the picture gets lighter or darker by this much, and back, in a `flash`.",
        unit="lightness",
        limits=_NOT_NEGATIVE,
    )
    flash_frames: int = setting(24, "The longest flash.", unit="frames", limits=_FRAMES)
    drift_lightness: float = setting(
        12.0,
        "All of the picture is this much lighter, darker, or of another tint than in the first segment after the last "
        "change that was asked for, in a `drift`.",
        unit="lightness",
        limits=_NOT_NEGATIVE,
    )
    input_levels: float = setting(
        24.0,
        "The film's first (last) frame differs this much from its `image` (`last_image`) in an `input`.",
        unit="levels",
        limits=_NOT_NEGATIVE,
    )
