"""From events to a timeline: spans of work on each worker, and the reasons for idle time. Pure.

Times are Unix seconds. A worker that denoises one film and finishes another at the same time counts once as busy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from render_farm.observability.events import EventKind, LogLine

_SHORTEST_IDLE_S = 0.05
_BEGINS = {EventKind.SEGMENT_STARTED: "segment", EventKind.FINISH_STARTED: "finish"}
_ENDS = {EventKind.SEGMENT_DONE, EventKind.FILM_PUBLISHED, EventKind.WORK_FAILED, EventKind.FILM_ENDED}

TEXT = "waiting for the prompts to be encoded"
PAUSED = "the run was paused"
RETRY = "waiting to try again"
TAIL = "no film left to start"
BETWEEN = "between segments"


@dataclass(frozen=True, kw_only=True)
class BusySpan:
    """One piece of work of a worker."""

    worker: str
    start_s: float
    end_s: float
    kind: str
    """`segment`, `finish`, or `failed` for work without a result."""
    job_id: str
    segment: int | None = None
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class Idle:
    """Time in which a worker was up and did nothing."""

    worker: str
    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A run from its first event to its last."""

    start_s: float
    end_s: float
    spans: list[BusySpan] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    up_s: dict[str, float] = field(default_factory=dict)
    """Seconds that each worker was up."""

    @property
    def workers(self) -> list[str]:
        return sorted(self.up_s, key=natural)

    @property
    def idle_s(self) -> dict[str, float]:
        """Idle seconds by reason, the largest first."""
        total: dict[str, float] = defaultdict(float)
        for gap in self.idle:
            total[gap.reason] += gap.end_s - gap.start_s
        return dict(sorted(total.items(), key=lambda item: -item[1]))


def build_timeline(events: Iterable[LogLine], *, now_s: float | None = None) -> Timeline:
    """The timeline of a run's events, which are in order of time. Running work ends at `now_s` (default: the last
    event). A run that was resumed after a stop has a gap in which no worker is up."""
    lines = list(events)
    if not lines:
        return Timeline(start_s=0.0, end_s=0.0)
    end_s = max(lines[-1].time_s, now_s or 0.0)
    spans, up = _spans(lines, end_s)
    idle = _idle(lines, spans, up)
    held = {worker: sum(end - start for start, end in times) for worker, times in up.items()}
    return Timeline(start_s=lines[0].time_s, end_s=end_s, spans=spans, idle=idle, up_s=held)


def _spans(lines: list[LogLine], end_s: float) -> tuple[list[BusySpan], dict[str, list[tuple[float, float]]]]:
    """Work, and when each worker was up."""
    spans: list[BusySpan] = []
    open_work: dict[tuple[str, str], LogLine] = {}
    open_up: dict[str, float] = {}
    up: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def close(begin: LogLine, time_s: float, *, failed: bool) -> None:
        for worker in _workers_of(begin):
            spans.append(
                BusySpan(
                    worker=worker,
                    start_s=begin.time_s,
                    end_s=time_s,
                    kind="failed" if failed else _BEGINS[EventKind(begin.kind)],
                    job_id=begin.job_id,
                    segment=begin.segment,
                    attempt=begin.attempt,
                )
            )

    def all_down(time_s: float) -> None:
        for begin in open_work.values():
            close(begin, time_s, failed=True)
        open_work.clear()
        for worker, since in open_up.items():
            up[worker].append((since, time_s))
        open_up.clear()

    last_s = lines[0].time_s
    for line in lines:
        if line.kind == EventKind.RUN_STARTED:
            all_down(last_s)  # the farm before this one ended without an event
        elif line.kind == EventKind.WORKER_UP:
            open_up[line.worker] = line.time_s
        elif line.kind == EventKind.WORKER_ENDED and line.worker in open_up:
            up[line.worker].append((open_up.pop(line.worker), line.time_s))
            for key in [key for key in open_work if key[0] == line.worker]:
                close(open_work.pop(key), line.time_s, failed=True)
        elif line.kind in _BEGINS:
            open_work[line.worker, line.job_id] = line
            for worker in _workers_of(line):
                open_up.setdefault(worker, line.time_s)
        elif line.kind in _ENDS and (begin := open_work.pop((line.worker, line.job_id), None)):
            failed = line.kind == EventKind.WORK_FAILED or (
                line.kind == EventKind.FILM_ENDED and line.values.get("state") == "failed"
            )  # what a cancelled film has rendered is kept
            close(begin, line.time_s, failed=failed)
        last_s = line.time_s
    for begin in open_work.values():
        close(begin, end_s, failed=False)
    for worker, since in open_up.items():
        up[worker].append((since, end_s))
    spans.sort(key=lambda span: span.start_s)
    return spans, dict(up)


def _idle(lines: list[LogLine], spans: list[BusySpan], up: dict[str, list[tuple[float, float]]]) -> list[Idle]:
    """The gaps of every worker, each with its reason."""
    reasons = _Reasons(lines)
    by_worker: dict[str, list[BusySpan]] = defaultdict(list)
    for span in spans:
        by_worker[span.worker].append(span)
    idle: list[Idle] = []
    for worker, times in up.items():
        busy = sorted((span.start_s, span.end_s) for span in by_worker[worker])
        for start, end in times:
            at = start
            for busy_start, busy_end in [*busy, (end, end)]:
                if busy_end <= start or busy_start > end:
                    continue
                if busy_start - at > _SHORTEST_IDLE_S:
                    reason = reasons.of(at, busy_start)
                    idle.append(Idle(worker=worker, start_s=at, end_s=busy_start, reason=reason))
                at = max(at, busy_end)
    return idle


class _Reasons:
    """Why a worker did nothing, by the state of the whole run at that time."""

    def __init__(self, lines: list[LogLine]) -> None:
        self._text: list[tuple[float, float]] = []
        self._retry: list[tuple[float, float]] = []
        self._paused = _pauses(lines)
        self._last_start_s = max((line.time_s for line in lines if line.kind in _BEGINS), default=0.0)
        since: float | None = None
        delayed: dict[str, float] = {}
        for line in lines:
            if line.kind == EventKind.TEXT_STARTED:
                since = line.time_s
            elif line.kind == EventKind.TEXT_DONE and since is not None:
                self._text.append((since, line.time_s))
                since = None
            elif line.kind == EventKind.WORK_FAILED:
                delayed[line.job_id] = line.time_s
            elif line.kind in _BEGINS and line.job_id in delayed:
                self._retry.append((delayed.pop(line.job_id), line.time_s))

    def of(self, start_s: float, end_s: float) -> str:
        middle = (start_s + end_s) / 2
        if any(begin <= middle <= end for begin, end in self._text):
            return TEXT
        if any(begin <= middle <= end for begin, end in self._paused):
            return PAUSED
        if end_s > self._last_start_s:
            return TAIL
        if any(begin <= middle <= end for begin, end in self._retry):
            return RETRY
        return BETWEEN


def _pauses(lines: list[LogLine]) -> list[tuple[float, float]]:
    """When the run was paused."""
    pauses: list[tuple[float, float]] = []
    since: LogLine | None = None
    for line in lines:
        # A farm that resumes a paused run logs the pause before the start, and numbers its lines from 1 again.
        is_older = line.kind == EventKind.RUN_STARTED and since is not None and since.number > line.number
        if since is not None and (line.kind == EventKind.RUN_RESUMED or is_older):
            pauses.append((since.time_s, line.time_s))
            since = None
        elif line.kind == EventKind.RUN_PAUSED and since is None:
            since = line
    if since is not None:
        pauses.append((since.time_s, math.inf))
    return pauses


def _workers_of(begin: LogLine) -> list[str]:
    """The workers that start there: one, and the others of its render group."""
    return [begin.worker, *begin.values.get("helpers", ())]


def natural(name: str) -> list[tuple[int, str]]:
    """`worker-10.2` after `worker-9.1`."""
    parts = name.replace("-", ".").split(".")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
