"""What a clip can show, and the English that says so. Standard library only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.75, 0.15),
    "blue": (0.15, 0.35, 1.00),
    "yellow": (0.95, 0.90, 0.10),
    "purple": (0.65, 0.10, 0.85),
    "cyan": (0.10, 0.90, 0.90),
}
"""Shape colours, RGB in [0, 1]."""

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.0, 0.0, 0.0),
    "gray": (0.5, 0.5, 0.5),
    "white": (1.0, 1.0, 1.0),
    "brown": (0.40, 0.22, 0.08),
}
"""Background colours, RGB in [0, 1]."""

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")

MOTIONS: dict[str, str] = {
    "right": "moving right",
    "left": "moving left",
    "up": "moving up",
    "down": "moving down",
    "still": "standing still",
    "bounce": "bouncing",
    "circle": "circling",
    "pulse": "growing and shrinking",
}
"""Motion name to the words that describe it."""

HELD_OUT_PERCENT = 15
"""Share of (colour, shape, motion, background) combinations that training never shows."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One shape of a clip: keys of COLOURS, SHAPES and MOTIONS."""

    colour: str
    shape: str
    motion: str

    def words(self) -> str:
        """Return for example "a red circle moving right"."""
        return f"a {self.colour} {self.shape} {MOTIONS[self.motion]}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a caption says: one or two shapes on a background (a key of BACKGROUNDS)."""

    subjects: tuple[Subject, ...]
    background: str

    def caption(self) -> str:
        """Return for example "a red circle moving right on a black background"."""
        return " and ".join(s.words() for s in self.subjects) + f" on a {self.background} background"


def is_held_out(subject: Subject, background: str) -> bool:
    """Say whether this combination is kept for measurement (the same on every machine)."""
    text = f"{subject.colour}/{subject.shape}/{subject.motion}/{background}"
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def all_scenes() -> list[Scene]:
    """Return every scene of one shape, in a fixed order."""
    return [
        Scene(subjects=(Subject(colour=colour, shape=shape, motion=motion),), background=background)
        for colour in COLOURS
        for shape in SHAPES
        for motion in MOTIONS
        for background in BACKGROUNDS
    ]


def held_out_scenes() -> list[Scene]:
    """Return the scenes of one shape that training never shows, in a fixed order."""
    return [scene for scene in all_scenes() if is_held_out(scene.subjects[0], scene.background)]


def vocabulary() -> list[str]:
    """Return every word of the captions, sorted."""
    words = {"a", "on", "and", "background"} | set(COLOURS) | set(BACKGROUNDS) | set(SHAPES)
    for phrase in MOTIONS.values():
        words |= set(phrase.split())
    return sorted(words)
