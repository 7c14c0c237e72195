"""Pictures of a run, and lines of its log."""

from __future__ import annotations

from render_farm.observability.events import LogLine
from render_farm.observability.snapshot import RunSnapshot


def snapshot(**changes) -> RunSnapshot:
    values = {
        "run_id": "demo-1",
        "output": "out",
        "state": "running",
        "jobs": {"running": 1, "waiting": 2, "done": 1},
        "num_segments": 8,
        "segments_done": 3,
        "steps_per_s": 2.5,
        "eta_s": 130.4,
        "num_workers": 2,
        "workers_busy": 1,
    }
    return RunSnapshot(**{**values, **changes})


def line(number: int, message: str, level: str = "info", job_id: str = "") -> LogLine:
    return LogLine(number=number, time_s=3600.0 * 5, level=level, job_id=job_id, message=message)
