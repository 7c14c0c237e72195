"""A run's timeline in Chrome's Trace Event Format, which Perfetto opens: a track per worker, a slice per segment."""

from __future__ import annotations

from typing import Any

from render_farm.observability.events import EventKind
from render_farm.report.run_folder import RunFolder
from render_farm.report.timeline import build_timeline

_PROCESS = 1
_RUN_TRACK = 0
_POINTS = {
    EventKind.RUN_STARTED,
    EventKind.RUN_PAUSED,
    EventKind.RUN_RESUMED,
    EventKind.TEXT_STARTED,
    EventKind.TEXT_DONE,
    EventKind.WORKER_ENDED,
    EventKind.WORK_FAILED,
}


def chrome_trace(folder: RunFolder, *, now_s: float) -> dict[str, Any]:
    """The document of a run. Times are microseconds since its first event, whose Unix time is in `otherData`. A run
    that is being rendered ends now."""
    line = build_timeline(folder.events, now_s=now_s if folder.live_at(now_s) else None)
    tracks = {worker: number for number, worker in enumerate(line.workers, 1)}
    events: list[dict[str, Any]] = [
        _name("process_name", _RUN_TRACK, f"run {folder.run_id}"),
        _name("thread_name", _RUN_TRACK, "run"),
        *(_name("thread_name", number, worker) for worker, number in tracks.items()),
    ]

    def at_us(time_s: float) -> int:
        return round((time_s - line.start_s) * 1e6)

    def piece(worker: str, name: str, category: str, start_s: float, end_s: float, **values: Any) -> dict[str, Any]:
        begin = at_us(start_s)
        place = {"pid": _PROCESS, "tid": tracks.get(worker, _RUN_TRACK)}
        return {
            "name": name,
            "cat": category,
            "ph": "X",
            "ts": begin,
            "dur": at_us(end_s) - begin,
            **place,
            "args": {key: value for key, value in values.items() if value is not None},
        }

    for span in line.spans:
        segment = None if span.segment is None else span.segment + 1
        what = "finish" if segment is None else f"segment {segment}"
        events.append(
            piece(
                span.worker,
                f"{span.job_id} {what}",
                span.kind,
                span.start_s,
                span.end_s,
                job_id=span.job_id,
                segment=segment,
                attempt=span.attempt,
            )
        )
    events += [piece(gap.worker, gap.reason, "idle", gap.start_s, gap.end_s) for gap in line.idle]
    for event in folder.events:
        if event.kind in _POINTS:
            track = tracks.get(event.worker, _RUN_TRACK)
            point = {"name": event.message, "cat": event.kind, "ph": "i", "s": "t", "ts": at_us(event.time_s)}
            events.append({**point, "pid": _PROCESS, "tid": track})
    about = {"run_id": folder.run_id, "output": folder.document.get("output"), "start_unix_s": line.start_s}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _name(kind: str, track: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": _PROCESS, "tid": track, "args": {"name": name}}
