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
    null, or raises ValueError with what would work. Raises ValueError for the first shot that cannot be used."""
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise ValueError("is not a list of shots; a shot is {prompt, num_frames, cut, seed, guidance_scale, image}")
    shots = tuple(_shot(number, item, read) for number, item in enumerate(value, start=1))
    if not shots:
        raise ValueError("is an empty list; give at least one shot, or prompt instead")
    if len(shots) > MAX_SHOTS:
        raise ValueError(f"has {len(shots):,} entries; the most is {MAX_SHOTS:,}")
    return shots


def _shot(number: int, item: Any, read: Callable[[str, Any], Any]) -> Shot:
    if isinstance(item, Shot):
        item = {name: getattr(item, name) for name in SHOT_FIELDS}
    if not isinstance(item, Mapping):
        raise ValueError(f"shot {number} is not {{prompt, num_frames, cut, seed, guidance_scale, image}}")
    unknown = [name for name in item if name not in SHOT_FIELDS]
    if unknown:
        raise ValueError(f"shot {number}: {unknown[0]!r:.80} is not known; it has {', '.join(SHOT_FIELDS)}")
    clean: dict[str, Any] = {}
    for name, given in item.items():
        try:
            clean[name] = None if given is None else read(name, given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"shot {number}: {name}: {error}") from None
    if clean.get("prompt") is None:
        raise ValueError(f"shot {number}: prompt: is required")
    shot = Shot(**{**clean, "cut": bool(clean.get("cut"))})
    if shot.image and number > 1 and not shot.cut:
        raise ValueError(
            f"shot {number}: image: is the first frame of a shot that starts without history; cut true would work"
        )
    return shot
