"""The events of a run: one JSON line each, with run, job, segment, attempt and worker, in the run's `logs/` folder.

The lines are enough to draw the run afterwards: who did what and when, what it waited for, and how it ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


class EventKind(StrEnum):
    """What happened. A line without a kind is a remark."""

    REMARK = ""
    RUN_STARTED = "run_started"
    RUN_PAUSED = "run_paused"
    RUN_RESUMED = "run_resumed"
    TEXT_STARTED = "text_started"
    TEXT_DONE = "text_done"
    WORKER_UP = "worker_up"
    WORKER_ENDED = "worker_ended"
    SEGMENT_STARTED = "segment_started"
    SEGMENT_DONE = "segment_done"
    PREVIEW_READY = "preview_ready"
    FINISH_STARTED = "finish_started"
    FILM_PUBLISHED = "film_published"
    FILM_REJECTED = "film_rejected"
    WORK_FAILED = "work_failed"
    FILM_ENDED = "film_ended"


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One event, numbered so that a reader can ask for the later ones."""

    number: int
    time_s: float
    """Unix time."""
    level: str
    """`debug info warning error`; `debug` is what a person who watches does not need."""
    job_id: str
    message: str
    kind: str = ""
    """Of `EventKind`; a newer version may know more."""
    run_id: str = ""
    segment: int | None = None
    """Counted from 0."""
    attempt: int = 0
    worker: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    """What else is known, by name with its unit: `seconds`, `num_frames`, `error_class`."""


_FIELDS = tuple(f.name for f in fields(LogLine))
_ALWAYS = ("number", "time_s", "level", "job_id", "message")
_NUMBER = (int, float)
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("level", "job_id", "message", "kind", "run_id", "worker"), str),
    **dict.fromkeys(("number", "attempt"), int),
    "time_s": _NUMBER,
    "segment": (int, type(None)),
    "values": dict,
}
_VALUES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("state", "error_class", "folder"), str),
    **dict.fromkeys(("num_frames", "width", "height", "segments_done", "seed"), int),
    **dict.fromkeys(("seconds", "fps"), _NUMBER),
    **dict.fromkeys(("helpers", "findings"), list),
}
"""Of the values that are read again; others are for people."""


def dump_lines(lines: Iterable[LogLine]) -> bytes:
    """JSON lines; fields that say nothing are left out."""
    return "".join(json.dumps(_content(line), default=str) + "\n" for line in lines).encode()


def parse_lines(data: bytes) -> Iterator[LogLine]:
    """The events of a log object. Lines that are none (a torn end, another program's) are skipped."""
    for text in data.splitlines():
        try:
            content = json.loads(text)
            line = LogLine(**{name: content[name] for name in _FIELDS if name in content})
        except (ValueError, TypeError, RecursionError):
            continue
        if _is_sound(line):
            yield line


def _is_sound(line: LogLine) -> bool:
    """Whether every field is of its kind: what cannot be trusted is no event."""
    if not all(is_kind(getattr(line, name), kind) for name, kind in _KINDS.items()):
        return False
    named = ((line.values[name], kind) for name, kind in _VALUES.items() if name in line.values)
    return all(is_kind(value, kind) for value, kind in named) and all(
        isinstance(text, str) for name in ("helpers", "findings") for text in line.values.get(name, ())
    )


def is_kind(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether `value` is of `kind`; truth values are no numbers, and numbers are finite."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) and not (isinstance(value, float) and not math.isfinite(value))


def _content(line: LogLine) -> dict[str, Any]:
    named = ((name, getattr(line, name)) for name in _FIELDS)
    return {name: value for name, value in named if name in _ALWAYS or (value or (name == "segment" and value == 0))}
