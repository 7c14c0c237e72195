"""`RunStatus`: a run for people, from its folder. The same from any machine, with or without its cluster. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from render_farm.observability.deadlines import will_be_late
from render_farm.observability.events import EventKind
from render_farm.observability.snapshot import RunSnapshot
from render_farm.report.failures import group_failures
from render_farm.report.run_folder import RunFolder
from render_farm.report.timeline import natural
from render_farm.scheduling.states import run_state

_RATE_OVER_S = 1800.0
_ENDS = {EventKind.SEGMENT_DONE, EventKind.FILM_PUBLISHED, EventKind.WORK_FAILED, EventKind.FILM_ENDED}
_STATES = ("done", "running", "waiting", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class SegmentWork:
    """The work of one worker now."""

    worker: str
    job_id: str
    doing: str
    """`segment 2/5`, with its steps where they are known, or `finishing`."""
    since_s: float
    """Seconds so far."""
    attempt: int = 1
    helpers: tuple[str, ...] = ()
    """The other workers of its render group."""
    fraction: float = 0.0
    """Share of its segment that is done, by its steps. 0 where they are unknown, and while finishing."""


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """The run's deadlines."""

    num_jobs: int = 0
    """Jobs that have one."""
    kept: int = 0
    """Done in time."""
    missed: list[str] = field(default_factory=list)
    """Jobs that ended late, or are not done and it has passed."""
    at_risk: list[str] = field(default_factory=list)
    """Jobs that will end late at the present pace, if films are taken in the order of their deadlines."""
    next_s: float | None = None
    """Seconds until the next one of a job that is not done."""


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
    steps_per_s: float | None
    """Denoising steps of all workers over the last seconds. None without a recent snapshot."""
    eta_s: float | None
    """None while it is unknown."""
    last_event_s: float | None
    """Seconds since the run's last event or snapshot."""
    is_live: bool = False
    """A coordinator renders it, and wrote a snapshot within the last minute."""
    device: str = ""
    """`cuda` or `cpu`."""
    num_workers: int | None = None
    """GPUs (or CPU workers) that are up. None without a recent snapshot."""
    workers_busy: int | None = None
    paused: bool = False
    quarantined: dict[str, str] = field(default_factory=dict)
    """Hosts that get no work, each with its reason."""
    note: str = ""
    """What it waits for, if anything."""
    workers: list[SegmentWork] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Causes, each with `error_class`, `message`, `advice`, `retry` and `num_jobs`."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    report: str = ""
    results: str = ""
    """Where `results.parquet` is: how every job ended, and why."""
    ray_dashboard: str | None = None
    """The run's job in Ray's dashboard, on a cluster that has one."""

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


_LEFT = "nobody renders it now; the command that started it continues it"


def run_status(folder: RunFolder, *, now_s: float, root_uri: str) -> RunStatus:
    """The status at `now_s` (Unix time) of what `folder` holds."""
    results = {row["job_id"]: row for row in folder.results}
    names = list(dict.fromkeys([*(str(row["job_id"]) for row in folder.jobs if "job_id" in row), *results]))
    live = folder.live_at(now_s)
    counts = Counter(live.jobs) if live else folder.counts()
    num_segments, done, rate = _segments(folder, now_s)
    state = live.state if live else stored_state(counts, folder)
    groups = group_failures(folder.results, run_id=folder.run_id, output=root_uri)
    last = max([line.time_s for line in folder.events[-1:]] + ([live.time_s] if live else []), default=None)
    is_left = state in ("running", "waiting") and folder.is_left(now_s)
    pace_eta_s = (num_segments - done) / rate if rate and state == "running" and not is_left else None
    eta_s = live.eta_s if live and live.eta_s is not None else pace_eta_s
    return RunStatus(
        run_id=folder.run_id,
        output=root_uri,
        state=state,
        num_jobs=len(names),
        jobs={name: counts[name] for name in _STATES if counts[name]},
        num_segments=max(num_segments, live.num_segments) if live else num_segments,
        segments_done=max(done, live.segments_done) if live else done,
        segments_per_h=round(rate * 3600, 1) if rate else None,
        steps_per_s=live.steps_per_s if live else None,
        eta_s=None if eta_s is None else round(eta_s, 1),
        last_event_s=None if last is None else round(max(0.0, now_s - last), 1),
        is_live=live is not None,
        device=str(folder.document.get("device") or ""),
        num_workers=live.num_workers if live else None,
        workers_busy=live.workers_busy if live else None,
        paused=folder.control.paused,
        quarantined=dict(folder.control.quarantined),
        note=_LEFT if is_left else live.note if live else "",
        workers=_work_of(live) if live else _workers(folder, now_s) if state == "running" and not is_left else [],
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
        deadlines=_deadlines(folder, results, now_s, eta_s, num_left=counts["running"] + counts["waiting"]),
        report=f"{root_uri}/_runs/{folder.run_id}/report.html",
        results=f"{root_uri}/_runs/{folder.run_id}/results.parquet",
        ray_dashboard=folder.document.get("ray_dashboard"),
    )


def _work_of(snapshot: RunSnapshot) -> list[SegmentWork]:
    work = []
    for item in snapshot.work:
        steps = f" step {item.step}/{item.num_steps}" if item.num_steps else ""
        doing = "finishing" if item.phase == "publish" else f"segment {item.segment + 1}/{item.num_segments}{steps}"
        work.append(
            SegmentWork(
                worker=item.worker,
                job_id=item.job_id,
                doing=doing,
                since_s=item.seconds,
                attempt=item.attempt,
                helpers=item.helpers,
                fraction=round(item.step / item.num_steps, 4) if item.num_steps and item.phase != "publish" else 0.0,
            )
        )
    return sorted(work, key=lambda item: natural(item.worker))


def stored_state(counts: Counter[str], folder: RunFolder) -> str:
    """The state of a run of which there is no recent snapshot. Jobs that were cancelled by name cancel no run."""
    if counts["running"] or (counts["waiting"] and folder.results):
        return "running"
    if counts["waiting"]:
        return "waiting"
    cancelled = {row["job_id"] for row in folder.results if row["state"] == "cancelled"}
    return str(run_state(counts, stopped=bool(cancelled - folder.excluded)))


def _segments(folder: RunFolder, now_s: float) -> tuple[int, int, float | None]:
    """All segments, the stored ones, and how many were stored per second lately."""
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


def _workers(folder: RunFolder, now_s: float) -> list[SegmentWork]:
    segments = {row["job_id"]: row.get("segments") for row in folder.results}
    begun: dict[tuple[str, str], SegmentWork] = {}
    for line in folder.events:
        key = (line.worker, line.job_id)
        if line.kind == EventKind.RUN_STARTED:
            begun.clear()
        elif line.kind in (EventKind.SEGMENT_STARTED, EventKind.FINISH_STARTED):
            doing = f"segment {(line.segment or 0) + 1}/{segments.get(line.job_id) or '?'}"
            begun[key] = SegmentWork(
                worker=line.worker,
                job_id=line.job_id,
                doing=doing if line.kind == EventKind.SEGMENT_STARTED else "finishing",
                since_s=round(max(0.0, now_s - line.time_s), 1),
                attempt=line.attempt or 1,
                helpers=tuple(line.values.get("helpers", ())),
            )
        elif line.kind == EventKind.WORKER_ENDED:
            begun = {known: work for known, work in begun.items() if known[0] != line.worker}
        elif line.kind in _ENDS:
            begun.pop(key, None)
    return sorted(begun.values(), key=lambda work: work.worker)


def _deadlines(
    folder: RunFolder, results: dict[str, dict[str, Any]], now_s: float, eta_s: float | None, *, num_left: int
) -> Deadlines:
    kept = num_jobs = 0
    missed: list[str] = []
    open_jobs: dict[str, float] = {}
    for row in folder.jobs:
        deadline, name = row.get("deadline"), str(row.get("job_id", ""))
        if not isinstance(deadline, datetime):
            continue
        num_jobs, due_s = num_jobs + 1, deadline.timestamp()
        result = results.get(name, {})
        if result.get("state") == "done":
            in_time = (result.get("finished_at") or due_s) <= due_s  # no time: it was there before the run
            kept += in_time
            if not in_time:
                missed.append(name)
        elif due_s < now_s:
            missed.append(name)
        elif result.get("state") not in ("failed", "cancelled"):
            open_jobs[name] = due_s
    return Deadlines(
        num_jobs=num_jobs,
        kept=kept,
        missed=missed,
        at_risk=will_be_late(open_jobs, now_s=now_s, eta_s=eta_s, num_left=num_left),
        next_s=round(min(open_jobs.values()) - now_s, 1) if open_jobs else None,
    )
