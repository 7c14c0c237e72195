"""A run at this moment: one small object, `_runs/<run_id>/live.json`, that its coordinator replaces every few seconds.

Results and events are written less often; this is what `status`, `watch` and the live page look at in between. It is a
convenience: nothing is decided by it, and a reader takes one that is old, torn or of another version as absent.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from render_farm.observability.events import is_kind

SCHEMA = "render_farm.live/1"


@dataclass(frozen=True, kw_only=True)
class LiveWork:
    """What a worker does now."""

    worker: str
    job_id: str
    phase: str
    """`denoise` or `publish`."""
    segment: int = 0
    """Counted from 0."""
    num_segments: int = 0
    step: int = 0
    """Steps done of the segment."""
    num_steps: int = 0
    attempt: int = 1
    helpers: tuple[str, ...] = ()
    """The other workers of its render group."""
    seconds: float = 0.0
    """Since it began."""


@dataclass(frozen=True, kw_only=True)
class LiveRun:
    """See the module."""

    time_s: float
    """Unix time of writing, by the coordinator's clock."""
    state: str
    jobs: dict[str, int] = field(default_factory=dict)
    """By state."""
    segments_done: int = 0
    num_segments: int = 0
    steps_per_s: float = 0.0
    eta_s: float | None = None
    num_workers: int = 0
    workers_busy: int = 0
    paused: bool = False
    quarantined: dict[str, str] = field(default_factory=dict)
    """Hosts, each with its reason."""
    note: str = ""
    """What the run waits for, when it does."""
    work: tuple[LiveWork, ...] = ()


def dump_live(live: LiveRun) -> bytes:
    """As `live.json` holds it."""
    return json.dumps({"schema": SCHEMA, **asdict(live)}, separators=(",", ":")).encode()


def parse_live(data: bytes) -> LiveRun | None:
    """The inverse of `dump_live`; None for anything else."""
    try:
        content: dict[str, Any] = json.loads(data)
        if content.pop("schema") != SCHEMA:
            return None
        work = tuple(LiveWork(**{**item, "helpers": tuple(item["helpers"])}) for item in content.pop("work"))
        live = LiveRun(**content, work=work)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return live if _is_sound(live) else None


_NUMBER = (int, float)
_RUN_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("segments_done", "num_segments", "num_workers", "workers_busy"), int),
    **dict.fromkeys(("time_s", "steps_per_s"), _NUMBER),
    **dict.fromkeys(("state", "note"), str),
    **dict.fromkeys(("jobs", "quarantined"), dict),
    "eta_s": (*_NUMBER, type(None)),
    "paused": bool,
}
_WORK_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("worker", "job_id", "phase"), str),
    **dict.fromkeys(("segment", "num_segments", "step", "num_steps", "attempt"), int),
    "seconds": _NUMBER,
}


def _is_sound(live: LiveRun) -> bool:
    """Whether every field is of its kind."""
    return (
        all(is_kind(getattr(live, name), kind) for name, kind in _RUN_KINDS.items())
        and all(is_kind(getattr(work, name), kind) for work in live.work for name, kind in _WORK_KINDS.items())
        and all(isinstance(helper, str) for work in live.work for helper in work.helpers)
        and all(is_kind(number, int) for number in live.jobs.values())
        and all(isinstance(reason, str) for reason in live.quarantined.values())
    )
