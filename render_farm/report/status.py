"""How a run stands, from what it has stored: the same from any machine, with or without its cluster. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from render_farm.observability.events import EventKind
from render_farm.report.failures import group_failures
from render_farm.report.run_folder import RunFolder

_RATE_OVER_S = 1800.0
_STATES = ("done", "running", "waiting", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker does now."""

    worker: str
    job_id: str
    doing: str
    """`segment 2/5`, or `finishing`."""
    since_s: float
    """Seconds so far."""
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run. `status --json` prints exactly these."""

    run_id: str
    output: str
    state: str
    """`waiting running done failed cancelled`."""
    num_jobs: int
    jobs: dict[str, int]
    """By state."""
    num_segments: int
    segments_done: int
    segments_per_h: float | None
    eta_s: float | None
    """From the pace of the last half hour; None when nothing is known."""
    last_event_s: float | None
    """Seconds since the run last said something; it writes every 20 s when there is something to say."""
    workers: list[Work] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Causes, each with `error_class`, `message`, `advice`, `retry` and `num_jobs`."""
    late: list[str] = field(default_factory=list)
    """Jobs whose deadline has passed and that are not done."""
    report: str = ""
    ray_dashboard: str | None = None
    """The run's job in Ray's dashboard, when it is rendered on a cluster that has one."""

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


def run_status(folder: RunFolder, *, now_s: float, root_uri: str) -> RunStatus:
    """The status at `now_s` (Unix time) of what `folder` holds."""
    results = {row["job_id"]: row for row in folder.results}
    names = list(dict.fromkeys([*(str(row["job_id"]) for row in folder.jobs if "job_id" in row), *results]))
    counts = Counter(str(results[name]["state"]) if name in results else "waiting" for name in names)
    num_segments, done, rate = _segments(folder, now_s)
    state = _state(counts, bool(results))
    groups = group_failures(folder.results, run_id=folder.run_id, output=root_uri)
    last = folder.events[-1].time_s if folder.events else None
    return RunStatus(
        run_id=folder.run_id,
        output=root_uri,
        state=state,
        num_jobs=len(names),
        jobs={name: counts[name] for name in _STATES if counts[name]},
        num_segments=num_segments,
        segments_done=done,
        segments_per_h=round(rate * 3600, 1) if rate else None,
        eta_s=round((num_segments - done) / rate, 1) if rate and state == "running" else None,
        last_event_s=None if last is None else round(max(0.0, now_s - last), 1),
        workers=_workers(folder, now_s) if state == "running" else [],
        failures=[
            {
                "error_class": group.error_class,
                "message": group.message,
                "advice": group.advice,
                "retry": group.retry,
                "num_jobs": len(group.job_ids),
            }
            for group in groups
        ],
        late=_late(folder, results, now_s),
        report=f"{root_uri}/_runs/{folder.run_id}/report.html",
        ray_dashboard=folder.document.get("ray_dashboard"),
    )


def _state(counts: Counter[str], begun: bool) -> str:
    if counts["running"] or (counts["waiting"] and begun):
        return "running"
    if counts["waiting"]:
        return "waiting"
    return next((state for state in ("failed", "cancelled") if counts[state]), "done")


def _segments(folder: RunFolder, now_s: float) -> tuple[int, int, float | None]:
    """Segments in all, those that are stored, and how many a second come lately."""
    total = done = 0
    stored: dict[str, int] = {}
    recent = []
    first_s: float | None = None
    for line in folder.events:
        if line.kind == EventKind.SEGMENT_STARTED:
            first_s = line.time_s if first_s is None else first_s
            stored[line.job_id] = line.segment or 0
        elif line.kind == EventKind.SEGMENT_DONE:
            stored[line.job_id] = (line.segment or 0) + 1
            recent.append(line.time_s)
    for row in folder.results:
        segments = row.get("segments") or 0
        total += segments
        done += segments if row["state"] == "done" else min(segments, stored.get(row["job_id"], 0))
    if first_s is None or not recent:
        return total, done, None
    begin_s = max(first_s, recent[-1] - _RATE_OVER_S)
    span_s = max(recent[-1], min(now_s, recent[-1] + 60)) - begin_s
    return total, done, sum(time_s > begin_s for time_s in recent) / span_s if span_s > 0 else None


def _workers(folder: RunFolder, now_s: float) -> list[Work]:
    segments = {row["job_id"]: row.get("segments") for row in folder.results}
    begun: dict[tuple[str, str], Work] = {}
    for line in folder.events:
        key = (line.worker, line.job_id)
        if line.kind == EventKind.RUN_STARTED:
            begun.clear()
        elif line.kind in (EventKind.SEGMENT_STARTED, EventKind.FINISH_STARTED):
            place = f"segment {(line.segment or 0) + 1}/{segments.get(line.job_id) or '?'}"
            begun[key] = Work(
                worker=line.worker,
                job_id=line.job_id,
                doing=place if line.kind == EventKind.SEGMENT_STARTED else "finishing",
                since_s=round(max(0.0, now_s - line.time_s), 1),
                attempt=line.attempt or 1,
            )
        elif line.kind == EventKind.WORKER_ENDED:
            begun = {known: work for known, work in begun.items() if known[0] != line.worker}
        else:
            begun.pop(key, None)
    return sorted(begun.values(), key=lambda work: work.worker)


def _late(folder: RunFolder, results: dict[str, dict[str, Any]], now_s: float) -> list[str]:
    late = []
    for row in folder.jobs:
        deadline, name = row.get("deadline"), str(row.get("job_id", ""))
        if not isinstance(deadline, datetime) or results.get(name, {}).get("state") == "done":
            continue
        if deadline.timestamp() < now_s:
            late.append(name)
    return late
