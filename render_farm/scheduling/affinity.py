"""Rule: a loaded model is not dropped for one job.

Among equals, films for a model that an idle worker has loaded go first, and of those the films for its adapters.
`queue.py` counts how often a film is passed over for that. A worker loads another model only when no worker that has
the model will be free within the time that loading takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a worker must have loaded for a film."""

    model: str
    adapters: tuple[tuple[str, float], ...] = ()
    """(identity, weight) of each LoRA."""


class Match(IntEnum):
    """How well a worker suits a film; lower is better."""

    ALL_LOADED = 0
    OTHER_ADAPTERS = 1
    NOTHING_LOADED = 2
    OTHER_MODEL = 3


def match(loaded: Setting | None, needed: Setting) -> Match:
    """How well a worker that has `loaded` suits."""
    if loaded is None:
        return Match.NOTHING_LOADED
    if loaded.model != needed.model:
        return Match.OTHER_MODEL
    return Match.ALL_LOADED if loaded == needed else Match.OTHER_ADAPTERS


def better_waits(free_at_s: float | None, load_s: float | None, now: float) -> bool:
    """Whether a film should wait for a worker that has its model and is expected to be free at `free_at_s`, instead of
    having it loaded by another in `load_s`. It does not wait for an overdue worker, or for one with an unknown time."""
    return free_at_s is not None and load_s is not None and now < free_at_s < now + load_s
