"""Read from the pixels what a clip of one shape shows: a plain detector, the judge of prompt following.

Clips are uint8 (T, 64, 64, 3); positions are pixels on a torus, as in `clips`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from render_farm.tiny.captions import BACKGROUNDS, COLOURS, SHAPES
from render_farm.tiny.clips import SIZE, SPEED, Path, coverage

MIN_AREA = 12
"""Pixels under which a frame counts as empty."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What a clip shows; None where no shape was found."""

    background: str
    colour: str | None
    shape: str | None
    motion: str | None
    area: float
    """Mean pixels of the shape."""
    path: NDArray[np.float64]
    """Centroid in each frame (T, 2), unwrapped: moving right for long gives x far beyond 64."""


def detect(clip: NDArray[np.uint8]) -> Detection:
    """Find the background, and the shape's colour, kind and motion."""
    pixels = clip.astype(np.float32) / 255
    ground = np.median(pixels.reshape(-1, 3), axis=0).astype(np.float32)
    distance = np.abs(pixels - ground).max(axis=-1)  # T H W
    mask = distance > 0.2
    areas = mask.sum(axis=(1, 2))
    path = _centroids(mask)
    background = _nearest(ground, BACKGROUNDS)
    if np.median(areas) < MIN_AREA:
        return Detection(
            background=background, colour=None, shape=None, motion=None, area=float(areas.mean()), path=path
        )
    core = distance > 0.7 * np.quantile(distance[mask], 0.9)
    return Detection(
        background=background,
        colour=_nearest(np.median(pixels[core], axis=0), COLOURS),
        shape=_kind(mask, areas, path),
        motion=_motion(path, areas),
        area=float(areas.mean()),
        path=path,
    )


def _nearest(value: NDArray[np.float32], names: dict[str, tuple[float, float, float]]) -> str:
    return min(names, key=lambda name: float(np.square(value - np.array(names[name])).sum()))


def _centroids(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each frame's centroid on the torus, unwrapped over time; an empty frame repeats the one before."""
    turn = np.exp(2j * np.pi * (np.arange(SIZE) + 0.5) / SIZE)
    sums = np.stack([mask.sum(axis=1) @ turn, mask.sum(axis=2) @ turn], axis=1)  # T (x, y)
    position = (np.angle(sums) / (2 * np.pi) * SIZE) % SIZE
    for t in range(1, len(position)):
        if not mask[t].any():
            position[t] = position[t - 1]
    steps = (np.diff(position, axis=0) + SIZE / 2) % SIZE - SIZE / 2
    return np.concatenate([position[:1], position[:1] + np.cumsum(steps, axis=0)])


def _motion(path: NDArray[np.float64], areas: NDArray[np.int_]) -> str:
    """Name the motion: a steady drift, else a changing size, else how far the centroid swings."""
    drift = (path[-1] - path[0]) / max(1, len(path) - 1)
    axis = int(np.abs(drift).argmax())
    swing = np.quantile(path, 0.97, axis=0) - np.quantile(path, 0.03, axis=0)
    if abs(drift[axis]) > 0.45 * SPEED and swing[1 - axis] < 0.5 * swing[axis]:
        return (("left", "right"), ("up", "down"))[axis][int(drift[axis] > 0)]
    side = np.sqrt(areas)
    if swing.max() < 8:
        return "pulse" if np.quantile(side, 0.95) > 1.35 * np.quantile(side, 0.05) else "still"
    return "circle" if swing[0] > 0.4 * swing[1] else "bounce"


def _kind(mask: NDArray[np.bool_], areas: NDArray[np.int_], path: NDArray[np.float64]) -> str:
    """Name the shape whose ideal outline, of the same area at the same place, overlaps best."""
    frames = np.linspace(0, len(mask) - 1, 9).astype(int)
    frames = frames[areas[frames] >= MIN_AREA]
    scores = {}
    for shape in SHAPES:
        unit = _area_of(shape)
        overlap = 0.0
        for t in frames:
            radius = 10 * np.sqrt(areas[t] / unit)
            ideal = _centred(shape, path[t], radius)
            overlap += (ideal & mask[t]).sum() / (ideal | mask[t]).sum()
        scores[shape] = overlap
    return max(scores, key=lambda shape: scores[shape])


def _centred(shape: str, centre: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    path = Path(
        centre=centre[None].astype(np.float32),
        radius=np.full(1, radius, np.float32),
        colour=np.zeros((1, 3), np.float32),
    )
    covered: NDArray[np.bool_] = coverage(shape, path)[0] > 0.5
    return covered


def _area_of(shape: str) -> float:
    return float(_centred(shape, np.array([SIZE / 2, SIZE / 2]), 10.0).sum())
