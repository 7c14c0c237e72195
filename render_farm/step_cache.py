"""What the column `cache` says: work that a film saves by approximation. It changes the film.

A mode is written as a name and, after colons, its parameters: `first_block:0.1`, `mag:0.06`,
`mag:0.06:max_skips=3:retain=0.2`. What is left out takes its default; the first parameter is the threshold. `off`
renders exactly. `guidance:0.5` computes the branch without the prompt in the first half of each block's steps only. It
is joined to a step cache by a `+`: `first_block:0.05+guidance:0.5`.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from render_farm.number_text import read_number, shortest

OFF = "off"
GUIDANCE = "guidance"


class CacheKind(StrEnum):
    """How it is decided that a step may reuse what the layers added in an earlier one."""

    FIRST_BLOCK = "first_block"
    """When what the first block adds has hardly changed."""
    MAG = "mag"
    """When what all blocks add is known, from an earlier measurement, to keep its magnitude (MagCache)."""


@dataclass(frozen=True, kw_only=True)
class StepCacheMode:
    """An approximate step cache. A threshold of 0 never skips, and is exact."""

    kind: CacheKind
    threshold: float
    """Of `first_block`: the relative change below which a step is skipped. Of `mag`: the error, summed over the steps
    since the last computed one, below which it is."""
    max_skips: int = 3
    """Of `mag`: the most steps that are skipped in a row."""
    retain: float = 0.2
    """Of `mag`: the share of a block's first steps that are always computed."""

    def __str__(self) -> str:
        text = f"{self.kind}:{shortest(self.threshold)}"
        return (
            text
            if self.kind is CacheKind.FIRST_BLOCK
            else f"{text}:max_skips={self.max_skips}:retain={shortest(self.retain)}"
        )


_DEFAULT_THRESHOLDS = {CacheKind.FIRST_BLOCK: 0.05, CacheKind.MAG: 0.06}
"""Those of diffusers' `FirstBlockCacheConfig` and `MagCacheConfig`."""
_PARAMETERS = {
    CacheKind.FIRST_BLOCK: ("threshold",),
    CacheKind.MAG: ("threshold", "max_skips", "retain"),
}
_RANGES = {"share": (0.0, 1.0), "threshold": (0.0, 10.0), "max_skips": (1.0, 100.0), "retain": (0.0, 1.0)}


def parse_cache(text: str) -> StepCacheMode | None:
    """The step cache that a job asks for; None is none. Raises ValueError that says what would work."""
    return _read(text)[0]


def guidance_share(text: str) -> float:
    """The share of each block's steps in which both guidance branches are computed. ValueError as `parse_cache`."""
    share = _read(text)[1]
    return 1.0 if share is None else share


@lru_cache(maxsize=256)
def _read(text: str) -> tuple[StepCacheMode | None, float | None]:
    """The step cache, and the share of `guidance`."""
    parts = [part.strip() for part in text.split("+")]
    shares = [part for part in parts if part.split(":")[0].strip() == GUIDANCE]
    others = [part for part in parts if part not in shares]
    for found, what in ((shares, GUIDANCE), (others, "a step cache")):
        if len(found) > 1:
            raise ValueError(f"{text!r}: {what} is given twice")
    share = _number(text, "share", shares[0].partition(":")[2] or "nothing") if shares else None
    return (_step_cache(others[0]) if others else None), share


def _step_cache(text: str) -> StepCacheMode | None:
    name, *parts = (part.strip() for part in text.split(":"))
    if name == OFF and not parts:
        return None
    if name not in list(CacheKind):
        near = difflib.get_close_matches(name.lower(), [OFF, *CacheKind, GUIDANCE], n=1)
        hint = f"did you mean {near[0]}?" if near else "off, first_block:0.05, mag:0.06 and guidance:0.5 are examples"
        raise ValueError(f"{text!r} is not a cache; {hint}")
    kind = CacheKind(name)
    values = {"threshold": _DEFAULT_THRESHOLDS[kind]}
    given: set[str] = set()
    for index, part in enumerate(parts):
        key, equals, value = part.rpartition("=")
        key = key.strip() if equals else "threshold" if index == 0 else ""
        if key not in _PARAMETERS[kind]:
            raise ValueError(
                f"{text!r}: {part!r} is not a parameter of {kind}; it takes {', '.join(_PARAMETERS[kind])}"
            )
        if key in given:
            raise ValueError(f"{text!r}: {key} is given twice")
        given.add(key)
        values[key] = _number(text, key, value)
    mode = StepCacheMode(kind=kind, threshold=values["threshold"])
    return replace(
        mode, max_skips=int(values.get("max_skips", mode.max_skips)), retain=values.get("retain", mode.retain)
    )


def _number(text: str, key: str, value: str) -> float:
    low, high = _RANGES[key]
    try:
        number = read_number(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high or (key == "max_skips" and not number.is_integer()):
        kind = "a whole number" if key == "max_skips" else "a number"
        raise ValueError(f"{text!r}: {key} {value!r} is not {kind} from {low:g} to {high:g}")
    return number


def canonical_cache(text: str) -> str:
    """`text` with every parameter, as it is written in `job.json`. Raises ValueError as `parse_cache`."""
    mode, share = _read(text)
    parts = [str(mode)] if mode else []
    if share is not None:
        parts.append(f"{GUIDANCE}:{shortest(share)}")
    return "+".join(parts) or OFF
