"""Checks of a film's pictures while they are decoded: black, flat, frozen, cut, seam, flash, drift, input.

Frames are H W 3, uint8 RGB. Of each, some numbers are kept (about 100 bytes), and findings come from these numbers at
the end. A change that was asked for, such as a cut or another prompt from a segment on, starts a *scene*, and is no
finding.

Brightness and tint are followed by quantiles of the picture: they shift all in one direction when the light changes,
and not when something moves, grows, or comes into view.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from render_farm.media.check_limits import CheckLimits
from render_farm.media.colour import lab
from render_farm.media.seam_score import Seam

MOST_FINDINGS = 50
"""Of one film. What is beyond says nothing new."""
_CHANGE_PIXELS, _COLOUR_PIXELS = 1 << 14, 1 << 10
"""Of a frame, about so many are looked at, evenly spaced."""
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_MOST_CLIPPED = len(_QUANTILES) - 3
_AROUND = 8
"""Frames before and after one, which say how much the picture changes there."""
_STILL = 1.0
"""Levels, added to the largest change around: a still picture has no cut where noise appears."""
_PERIOD = 4
"""Pixel frames of one latent frame. A change that was asked for may show in any of them, and a picture whose latents
stand still flickers with this period."""


_DEFAULTS = CheckLimits()


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """Something wrong in some frames, both counted from 0 and included."""

    first: int
    last: int
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}@{self.first}" + (f"-{self.last}" if self.last > self.first else "")


@dataclass(frozen=True, kw_only=True)
class SegmentColours:
    """Lightness, a and b (Lab) over all frames of a segment."""

    mean: tuple[float, float, float]
    spread: tuple[float, float, float]
    """Standard deviations within a frame, on average."""


@dataclass(frozen=True, kw_only=True)
class CheckedFilm:
    """What the checks say of a film."""

    findings: tuple[Finding, ...] = ()
    colours: tuple[SegmentColours, ...] = ()
    """Of each segment."""
    drift: float | None = None
    """How far the colours of any segment are from those of the first one of its scene: the distance in Lab of means and
    spreads. None when no two segments can be compared."""


@dataclass(kw_only=True)
class _Segment:
    first: int
    starts_scene: bool


class PictureChecks:
    """Takes a film's frames in order, told where segments begin."""

    def __init__(self, limits: CheckLimits = _DEFAULTS) -> None:
        self._limits = limits
        self._num_before = 0
        """Frames of an input video, which are not checked."""
        self._segments: list[_Segment] = []
        self._changes = array("f")
        """Of each frame from the one before."""
        self._changes_of_period = array("f")
        """Of each frame from the one a latent frame before."""
        self._statistics = array("f")
        """Of each frame: mean, spread and quantiles of L, a and b."""
        self._first: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self._recent: deque[np.ndarray] = deque(maxlen=_PERIOD)

    def skip(self) -> None:
        """The next frame is an input video's own."""
        self._num_before += 1

    def begin(self, *, starts_scene: bool = False) -> None:
        """The next frame is the first of a segment, which may look different when it `starts_scene`."""
        self._segments.append(_Segment(first=len(self._changes), starts_scene=starts_scene or not self._segments))

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame."""
        seen = frame[:: (step := _stride(frame, _CHANGE_PIXELS)), ::step].astype(np.int16)
        change = 0.0 if self._last is None else _difference(seen, self._last)
        period_ago = self._recent[0] if len(self._recent) == _PERIOD else None
        self._changes_of_period.append(math.inf if period_ago is None else _difference(seen, period_ago))
        self._first = seen if self._first is None else self._first
        self._last = seen
        self._recent.append(seen)
        self._changes.append(change)
        self._statistics.extend(_statistics(frame).ravel())

    def checked(
        self, seams: Iterable[Seam] = (), *, image: np.ndarray | None = None, last_image: np.ndarray | None = None
    ) -> CheckedFilm:
        """The findings in all frames so far. `seams` are the joins that were measured. `image` and `last_image` are the
        pictures that the film is to begin and end with, at its size."""
        if not self._changes:
            return CheckedFilm()
        numbers = np.array(self._statistics, np.float32).reshape(len(self._changes), 3, 2 + len(_QUANTILES))
        means, spreads, quantiles = numbers[:, :, 0], numbers[:, :, 1], numbers[:, :, 2:]
        colours = [(means[part].mean(axis=0), spreads[part].mean(axis=0)) for part in self._parts()]
        found = [*self._find(means, spreads, quantiles, seams), *self._unlike(image, last_image)]
        return CheckedFilm(
            findings=tuple(sorted(found)[:MOST_FINDINGS]),
            colours=tuple(SegmentColours(mean=_rounded(mean), spread=_rounded(spread)) for mean, spread in colours),
            drift=self._drift(colours),
        )

    def _parts(self) -> list[slice]:
        """The frames of each segment."""
        firsts = [segment.first for segment in self._segments] or [0]
        return self._from(firsts)

    def _scenes(self) -> list[slice]:
        """The frames of each scene."""
        return self._from([segment.first for segment in self._segments if segment.starts_scene] or [0])

    def _from(self, firsts: Sequence[int]) -> list[slice]:
        return [slice(first, end) for first, end in zip(firsts, [*firsts[1:], len(self._changes)], strict=True)]

    def _references(self) -> Iterator[tuple[int, int]]:
        """Each segment with the first of its scene."""
        reference = 0
        for index, segment in enumerate(self._segments):
            if segment.starts_scene:
                reference = index
            else:
                yield index, reference

    def _drift(self, colours: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
        distances = [
            math.hypot(*(colours[index][0] - colours[first][0]), *(colours[index][1] - colours[first][1]))
            for index, first in self._references()
        ]
        return round(max(distances), 2) if distances else None

    def _find(
        self, means: np.ndarray, spreads: np.ndarray, quantiles: np.ndarray, seams: Iterable[Seam]
    ) -> Iterator[Finding]:
        limits, changes = self._limits, np.array(self._changes)
        flat = spreads.max(axis=1) < limits.flat_spread
        black = flat & (means[:, 0] < limits.black_lightness)
        spoilt = flat.copy()
        yield from self._named("black", _runs(black))
        yield from self._named("flat", _runs(flat & ~black))
        frozen = np.array(self._changes_of_period) <= limits.frozen_levels
        stills = ((first - _PERIOD, last) for first, last in _runs(frozen))
        long = ((a, b) for a, b in stills if b - a + 1 >= limits.frozen_frames and not flat[a : b + 1].all())
        yield from self._named("frozen", long)
        flashes = (
            (scene.start + first, scene.start + last)
            for scene in self._scenes()
            for first, last in _flashes(quantiles[scene, 0], limits)
        )
        for first, last in flashes:
            if not flat[first : last + 1].any():
                spoilt[first : last + 1] = True
                yield from self._named("flash", [(first, last)])
        joins = {segment.first for segment in self._segments}
        settling = {scene.start + number for scene in self._scenes() for number in range(_PERIOD)}
        unfit = spoilt | np.roll(spoilt, 1)  # their changes say nothing of jumps
        unfit[0] = True
        for at in np.flatnonzero(~unfit & (changes >= limits.cut_levels)).tolist():
            if at not in joins | settling and _peak(changes, unfit, at) >= limits.cut_ratio:
                yield from self._named("cut", [(at, at)])
        starts = {number for number, segment in enumerate(self._segments) if segment.starts_scene and number}
        for seam in seams:
            at = seam.frame - self._num_before
            if seam.segment in starts or (at and unfit[at]):
                continue
            is_visible = seam.score >= limits.seam_score or _peak(changes, unfit, at) >= limits.seam_ratio
            if is_visible or _is_jump_of_light(quantiles, unfit, at, limits):
                yield from self._named("seam", [(at, at)])
        yield from self._drifted(quantiles)

    def _drifted(self, quantiles: np.ndarray) -> Iterator[Finding]:
        """Segments whose light or tint is not that of the first one of their scene, joined where they follow."""
        parts = self._parts()
        of_segments = np.array([quantiles[part].mean(axis=0) for part in parts])
        drifted = np.zeros(len(parts), bool)
        for index, first in self._references():
            drifted[index] = _shift_of_light(of_segments[index], of_segments[first]) >= self._limits.drift_lightness
        yield from self._named("drift", ((parts[a].start, parts[b].stop - 1) for a, b in _runs(drifted)))

    def _unlike(self, image: np.ndarray | None, last_image: np.ndarray | None) -> Iterator[Finding]:
        end = len(self._changes) - 1
        for picture, at, seen in ((image, 0, self._first), (last_image, end, self._last)):
            if picture is not None and seen is not None:
                expected = picture[:: (step := _stride(picture, _CHANGE_PIXELS)), ::step].astype(np.int16)
                if _difference(seen, expected) >= self._limits.input_levels:
                    yield from self._named("input", [(at, at)])

    def _named(self, kind: str, spans: Iterable[tuple[int, int]]) -> Iterator[Finding]:
        before = self._num_before
        return (Finding(kind=kind, first=first + before, last=last + before) for first, last in spans)


def _stride(frame: np.ndarray, num_pixels: int) -> int:
    return max(1, math.isqrt(frame.shape[0] * frame.shape[1] // num_pixels))


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def _statistics(frame: np.ndarray) -> np.ndarray:
    """Mean, spread and quantiles (3, 7) of L, a and b."""
    step = _stride(frame, _COLOUR_PIXELS)
    colours = lab(frame[::step, ::step]).reshape(3, -1)
    ranks = [round(quantile * (colours.shape[1] - 1)) for quantile in _QUANTILES]
    ordered = np.partition(colours, sorted(set(ranks)), axis=1)[:, ranks]
    return np.concatenate([colours.mean(axis=1)[:, None], colours.std(axis=1)[:, None], ordered], axis=1)


def _peak(changes: np.ndarray, unfit: np.ndarray, at: int) -> float:
    """The change at a frame, by the largest other one around it."""
    around = slice(max(0, at - _AROUND), at + _AROUND + 1)
    others = ~unfit[around]
    others[at - around.start] = False
    return float(changes[at] / (changes[around][others].max(initial=0.0) + _STILL))


def _shift(now: np.ndarray, before: np.ndarray, *, low: float = -math.inf, high: float = math.inf) -> float:
    """How far all quantiles (5,) have shifted in one direction at least; 0 when they have not.

    One at the end of the scale, which cannot go further, is left out, as long as enough others are there.
    """
    stuck = ((before >= high) & (now >= before - 1)) | ((before <= low) & (now <= before + 1))
    if stuck.sum() > _MOST_CLIPPED:
        return 0.0
    moved = (now - before)[~stuck]
    return float(max(moved.min(), 0.0) or min(moved.max(), 0.0))


def _shift_of_light(now: np.ndarray, before: np.ndarray) -> float:
    """How far all quantiles (3, 5) of lightness, or of one of both tints, have shifted at least."""
    shifts = (_shift(now[0], before[0], low=2, high=98), _shift(now[1], before[1]), _shift(now[2], before[2]))
    return max(map(abs, shifts))


def _is_jump_of_light(quantiles: np.ndarray, unfit: np.ndarray, at: int, limits: CheckLimits) -> bool:
    """Whether the light (frames, 3, 5) changes at a frame, and not around it: movement hides that from `_peak`."""
    if not at or (jump := _shift_of_light(quantiles[at], quantiles[at - 1])) < limits.seam_lightness:
        return False
    around = range(max(1, at - _AROUND), min(len(quantiles), at + _AROUND + 1))
    others = (_shift_of_light(quantiles[n], quantiles[n - 1]) for n in around if n != at and not unfit[n])
    return jump >= limits.seam_ratio * max(others, default=0.0)


def _flashes(lightness: np.ndarray, limits: CheckLimits) -> Iterator[tuple[int, int]]:
    """Frames (first and last) in which all of the picture suddenly has another lightness, and then its own again.
    `lightness` are quantiles (frames, 5)."""
    end = 0
    jumps = np.abs(np.diff(lightness[:, 2], prepend=lightness[:1, 2])) >= limits.flash_lightness / 2
    for first in np.flatnonzero(jumps).tolist():
        if first < max(end, 1):
            continue
        before = lightness[first - 1]
        peak = 0.0
        for at in range(first, min(first + limits.flash_frames + 1, len(lightness))):
            shift = abs(_shift(lightness[at], before, low=2, high=98))
            peak = max(peak, shift)
            if peak >= limits.flash_lightness and shift < peak / 3:
                end = at
                yield first, at - 1
                break


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of each run of True."""
    at = 0
    for value, group in groupby(flags.tolist()):
        length = len(list(group))
        if value:
            yield at, at + length - 1
        at += length


def _rounded(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (round(float(value), 2) for value in values)
    return first, second, third
