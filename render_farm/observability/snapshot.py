"""`RunSnapshot`: a run at one moment, for terminals, metrics and `_runs/<run_id>/live.json`.

The coordinator replaces `live.json` every few seconds. Results and events are written less often, so `status`, `watch`
and the live page read it in between. It is a convenience that decides nothing. A reader treats an old, torn or foreign
one as absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from render_farm.observability.events import LogLine, is_kind

SCHEMA = "render_farm.live/1"


@dataclass(frozen=True, kw_only=True)
class WorkSnapshot:
    """What a worker does at one moment."""

    worker: str
    job_id: str
    phase: str
    """`denoise` or `publish`."""
    segment: int = 0
    """Counted from 0. So many of the film's segments are stored."""
    num_segments: int = 0
    step: int = 0
    """Steps done of the segment."""
    num_steps: int = 0
    attempt: int = 1
    helpers: tuple[str, ...] = ()
    """The other workers of its render group."""
    seconds: float = 0.0
    """Time since it started."""


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """One run at one moment. `live.json` holds the fields that `_RUN_KINDS` lists, and `work`."""

    run_id: str = ""
    output: str = ""
    time_s: float = 0.0
    """Unix time, by the coordinator's clock."""
    state: str
    jobs: Mapping[str, int] = field(default_factory=dict)
    """By state."""
    num_segments: int = 0
    segments_done: int = 0
    segments_running: int = 0
    segments_waiting: int = 0
    """Segments of films that have not ended, without the running ones."""
    steps_per_s: float = 0.0
    eta_s: float | None = None
    """Seconds until all work is done. None before there is a pace."""
    num_late: int = 0
    """Films past their deadline that have not ended."""
    slack_s: float | None = None
    """From the ETA to the last deadline of the films that have not ended. Negative when the run will be late. None
    without deadlines, or before there is a pace."""
    num_workers: int = 0
    workers_busy: int = 0
    engine_s: float = 0.0
    """Seconds that the workers' processes have spent denoising or decoding, added up, as they last reported."""
    paused: bool = False
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Hosts, each with its reason."""
    findings: Mapping[str, int] = field(default_factory=dict)
    """Films by what the checks found in their pictures: `frozen`, `cut`..."""
    note: str = ""
    """What the run waits for, when it does (workers starting, text encoding)."""
    work: tuple[WorkSnapshot, ...] = ()
    log: tuple[LogLine, ...] = ()
    """New lines of the run's log, where they were asked for."""

    @property
    def num_jobs(self) -> int:
        return sum(self.jobs.values())


def dump_live(snapshot: RunSnapshot) -> bytes:
    """The content of `live.json`."""
    values = {name: getattr(snapshot, name) for name in _RUN_KINDS}
    work = [asdict(item) for item in snapshot.work]
    return json.dumps({"schema": SCHEMA, **values, "work": work}, separators=(",", ":")).encode()


def parse_live(data: bytes) -> RunSnapshot | None:
    """The inverse of `dump_live`. None for anything else."""
    try:
        content: dict[str, Any] = json.loads(data)
        if content.pop("schema") != SCHEMA:
            return None
        work = tuple(WorkSnapshot(**{**item, "helpers": tuple(item["helpers"])}) for item in content.pop("work"))
        if not content.keys() <= _RUN_KINDS.keys():
            return None
        live = RunSnapshot(**content, work=work)
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


def _is_sound(live: RunSnapshot) -> bool:
    """Whether every field is of its kind."""
    return (
        all(is_kind(getattr(live, name), kind) for name, kind in _RUN_KINDS.items())
        and all(is_kind(getattr(work, name), kind) for work in live.work for name, kind in _WORK_KINDS.items())
        and all(isinstance(helper, str) for work in live.work for helper in work.helpers)
        and all(is_kind(number, int) for number in live.jobs.values())
        and all(isinstance(reason, str) for reason in live.quarantined.values())
    )
