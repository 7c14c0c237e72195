"""Captioned clips of moving shapes: numpy only, a pure function of scene, seed and length.

The world is a torus: a shape that leaves on the right comes back on the left, so "moving right" means the same in
frame 5 and in frame 5,000. Every motion repeats after 80 frames, which is what a window of 97 frames adds behind 17
frames of history: later windows then look like the first, whose caption says nearly all there is to know about it (a
film starts with its shape near the centre; two shapes: left and right of it). Clips are float32 (T, 64, 64, 3) in
[0, 1]; positions are pixels (x to the right, y down).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from render_farm.tiny.captions import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, Subject, is_held_out

SIZE = 64
"""Height and width in pixels."""
PERIOD = 80
"""Frames after which every motion repeats."""
SPEED = SIZE / PERIOD
"""Straight motion, pixels a frame."""
RADIUS = (12.2, 12.8)
"""Range of the radius in pixels."""
START_JITTER, PHASE_JITTER = 2.0, 0.03
"""How far a start may be from its place, pixels; how late in its period a motion may start, as a share."""
BOUNCE_HEIGHT, BOUNCE_PERIOD = 24.0, PERIOD / 2
CIRCLE_RADIUS, CIRCLE_PERIOD = 14.0, PERIOD
PULSE_AMOUNT, PULSE_PERIOD = 0.4, PERIOD / 2
OUTLINE = 4.5
"""Width in pixels of the line of an outlined shape, the style that the example LoRA draws."""
FADE_FRAMES = 8
"""A change of colour or size after a change of prompt takes this long."""

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Path:
    """Where a shape is in each frame: centre (T, 2) in pixels, radius (T,) in pixels, colour (T, 3) in [0, 1]."""

    centre: Array
    radius: Array
    colour: Array


def offsets(motion: str, phase: float, num_frames: int, first_frame: int = 0) -> tuple[Array, Array]:
    """Return displacement (T, 2) in pixels and scale (T,) of a motion; `phase`: the share of a period at frame 0."""
    t = np.arange(first_frame, first_frame + num_frames, dtype=np.float64)
    move, scale = np.zeros((num_frames, 2)), np.ones(num_frames)
    direction = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}.get(motion)
    if direction is not None:
        move = SPEED * t[:, None] * np.array(direction, dtype=np.float64)
    elif motion == "bounce":
        part = (phase + t / BOUNCE_PERIOD) % 1.0
        move[:, 1] = BOUNCE_HEIGHT * ((2 * part - 1) ** 2 - 0.5)
    elif motion == "circle":
        angle = 2 * np.pi * (phase + t / CIRCLE_PERIOD)
        move = CIRCLE_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    elif motion == "pulse":
        scale = 1 + PULSE_AMOUNT * np.sin(2 * np.pi * (phase + t / PULSE_PERIOD))
    elif motion != "still":
        raise ValueError(f"unknown motion {motion!r}; one of {', '.join(MOTIONS)}")
    return move.astype(np.float32), scale.astype(np.float32)


def draw_path(
    subject: Subject, rng: np.random.Generator, num_frames: int, start: tuple[float, float], first_frame: int = 0
) -> Path:
    """Draw where around `start` the subject's film starts, its size and phase, and follow it from `first_frame` on."""
    radius, phase = rng.uniform(*RADIUS), rng.uniform(0, PHASE_JITTER)
    move, scale = offsets(subject.motion, phase, num_frames, first_frame)
    centre = np.array(start) + rng.uniform(-START_JITTER, START_JITTER, size=2) + move
    colour = np.broadcast_to(np.array(COLOURS[subject.colour], np.float32), (num_frames, 3))
    return Path(centre=centre.astype(np.float32), radius=(radius * scale).astype(np.float32), colour=colour)


def draw_paths(scene: Scene, seed: int, num_frames: int, first_frame: int = 0) -> list[Path]:
    """Draw the path of each shape of a scene."""
    rng = np.random.default_rng([seed, 1])
    starts = [(SIZE / 2, SIZE / 2)] if len(scene.subjects) == 1 else [(SIZE * 0.27, SIZE / 2), (SIZE * 0.73, SIZE / 2)]
    pairs = zip(scene.subjects, starts, strict=True)
    return [draw_path(subject, rng, num_frames, start, first_frame) for subject, start in pairs]


def change_path(path: Path, subject: Subject, at_frame: int) -> Path:
    """Make the path follow another subject (same shape) from `at_frame` on, without a jump."""
    num_after = len(path.radius) - at_frame
    move, scale = offsets(subject.motion, 0.0, num_after)
    mix = np.minimum(np.arange(1, num_after + 1, dtype=np.float32) / FADE_FRAMES, 1.0)
    base = float(np.median(path.radius))
    centre, radius, colour = path.centre.copy(), path.radius.copy(), np.array(path.colour)
    centre[at_frame:] = centre[at_frame - 1] + move - move[0]
    radius[at_frame:] = radius[at_frame - 1] * (1 - mix) + base * scale * mix
    target = np.array(COLOURS[subject.colour], np.float32)
    colour[at_frame:] = colour[at_frame - 1] * (1 - mix[:, None]) + target * mix[:, None]
    return replace(path, centre=centre, radius=radius, colour=colour)


def coverage(shape: str, path: Path, outlined: bool = False) -> Array:
    """Return how much of each pixel the shape (or only its outline) covers, antialiased: (T, 64, 64) in [0, 1]."""
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    dx = ((grid - path.centre[:, :1] + SIZE / 2) % SIZE - SIZE / 2)[:, None, :]
    dy = ((grid - path.centre[:, 1:] + SIZE / 2) % SIZE - SIZE / 2)[:, :, None]
    r = path.radius[:, None, None]
    if shape == "circle":
        inside = r - np.sqrt(dx * dx + dy * dy)
    elif shape == "square":
        inside = 0.88 * r - np.maximum(np.abs(dx), np.abs(dy))
    elif shape == "triangle":  # equilateral, one corner up, its centroid at the centre
        inside = np.minimum(0.6 * r - dy, 0.6 * r + 0.5 * dy - 0.866 * np.abs(dx))
    elif shape == "cross":
        wide, narrow = 1.05 * r, 0.36 * r
        ax, ay = np.abs(dx), np.abs(dy)
        inside = np.maximum(np.minimum(wide - ax, narrow - ay), np.minimum(narrow - ax, wide - ay))
    else:
        raise ValueError(f"unknown shape {shape!r}; one of {', '.join(SHAPES)}")
    covered: NDArray[np.float32] = np.clip(inside + 0.5, 0.0, 1.0)
    if outlined:
        covered = covered - np.clip(inside - OUTLINE + 0.5, 0.0, 1.0)
    return covered


def paint(scene: Scene, paths: list[Path], outlined: bool = False) -> Array:
    """Paint the scene's shapes, later ones in front: (T, 64, 64, 3)."""
    num_frames = len(paths[0].radius)
    clip = np.broadcast_to(np.array(BACKGROUNDS[scene.background], np.float32), (num_frames, SIZE, SIZE, 3)).copy()
    for subject, path in zip(scene.subjects, paths, strict=True):
        alpha = coverage(subject.shape, path, outlined)[..., None]
        clip += alpha * (path.colour[:, None, None, :] - clip)
    return clip


def render_clip(scene: Scene, seed: int, num_frames: int, first_frame: int = 0, outlined: bool = False) -> Array:
    """Render a scene: float32 (T, 64, 64, 3) in [0, 1]."""
    return paint(scene, draw_paths(scene, seed, num_frames, first_frame), outlined)


def render_change(scene: Scene, after: Scene, seed: int, num_frames: int, at_frame: int, first_frame: int = 0) -> Array:
    """Render a scene whose colours and motions become those of `after` (same shapes and ground) from `at_frame` on."""
    paths = draw_paths(scene, seed, num_frames, first_frame)
    return paint(scene, [change_path(p, s, at_frame) for p, s in zip(paths, after.subjects, strict=True)])


def draw_scene(rng: np.random.Generator, two_percent: int = 10) -> Scene:
    """Draw a training scene: never one that is held out; `two_percent` of them show two shapes."""
    while True:
        subjects = tuple(draw_subject(rng) for _ in range(2 if rng.integers(100) < two_percent else 1))
        background = str(rng.choice(list(BACKGROUNDS)))
        distinct = len({subject.colour for subject in subjects}) == len(subjects)
        if distinct and not any(is_held_out(subject, background) for subject in subjects):
            return Scene(subjects=subjects, background=background)


def draw_subject(rng: np.random.Generator) -> Subject:
    """Draw a colour, a shape and a motion, each independent of the others."""
    return Subject(
        colour=str(rng.choice(list(COLOURS))), shape=str(rng.choice(SHAPES)), motion=str(rng.choice(list(MOTIONS)))
    )


def draw_change(rng: np.random.Generator, scene: Scene) -> Scene:
    """Draw what a scene becomes: another colour, another motion, or both, for its first shape."""
    first = scene.subjects[0]
    kind = rng.integers(3)
    colour = str(rng.choice([c for c in COLOURS if c != first.colour])) if kind != 1 else first.colour
    motion = str(rng.choice([m for m in MOTIONS if m != first.motion])) if kind != 0 else first.motion
    return replace(scene, subjects=(replace(first, colour=colour, motion=motion), *scene.subjects[1:]))
