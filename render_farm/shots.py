"""`Shot`: a part of a film with a prompt of its own, as a row of a manifest names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

MAX_SHOTS = 1_000


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One shot. It covers whole segments of its own."""

    prompt: str
    num_frames: int | None = None
    """New pixel frames. None: one window's worth."""
    cut: bool = False
    """Whether it starts without the frames before it. The first shot does in any case."""
    seed: int | None = None
    """Starts another stream of noise, for this shot and those after it. None: the film's stream continues, or starts
    again at a cut."""
    guidance_scale: float | None = None
    """None: the film's."""
    image: str | None = None
    """URI of its first frame. Only for the first shot, and after a cut."""


SHOT_FIELDS = tuple(f.name for f in fields(Shot))


def read_shots(value: Any, read: Callable[[str, Any], Any]) -> tuple[Shot, ...]:
    """The shots of a list of mappings or shots. `read` turns the value of a field into a clean one, None where it is
    null, or raises ValueError with what would work. Raises ValueError with everything that is wrong."""
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise ValueError("is not a list of shots; a shot is {prompt, num_frames, cut, seed, guidance_scale, image}")
    items = list(value)
    if not items:
        raise ValueError("is an empty list; give at least one shot, or prompt instead")
    if len(items) > MAX_SHOTS:
        raise ValueError(f"has {len(items):,} entries; the most is {MAX_SHOTS:,}")
    shots, problems = [], []
    for number, item in enumerate(items, start=1):
        shot, wrong = _shot(item, read, is_first=number == 1)
        shots.append(shot)
        problems += [f"shot {number}{problem}" for problem in wrong]
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(shot for shot in shots if shot is not None)


def _shot(item: Any, read: Callable[[str, Any], Any], *, is_first: bool) -> tuple[Shot | None, list[str]]:
    """A shot, or everything that is wrong with it."""
    if isinstance(item, Shot):
        item = {name: getattr(item, name) for name in SHOT_FIELDS}
    if not isinstance(item, Mapping):
        return None, [" is not {prompt, num_frames, cut, seed, guidance_scale, image}"]
    problems = [
        f": {name!r:.80} is not known; it has {', '.join(SHOT_FIELDS)}" for name in item if name not in SHOT_FIELDS
    ]
    clean: dict[str, Any] = {}
    for name in SHOT_FIELDS:
        given = item.get(name)
        try:
            clean[name] = None if given is None else read(name, given)
        except (TypeError, ValueError) as error:
            problems.append(f": {name}: {error}")
        except OverflowError:
            problems.append(f": {name}: is far out of range")
    if "prompt" in clean and clean["prompt"] is None:
        problems.append(": prompt: is required")
    if clean.get("image") and not is_first and "cut" in clean and not clean["cut"]:
        problems.append(": image: is the first frame of a shot that starts without history; cut true would work")
    return None if problems else Shot(**{**clean, "cut": bool(clean["cut"])}), problems
