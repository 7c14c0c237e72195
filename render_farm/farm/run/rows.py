"""A job in `results.parquet` and the same job in the run's durable state: converted into each other."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from render_farm.farm.run.results import Result
from render_farm.storage.run_state import JobRow

_SAME = (
    "segments",
    "attempts",
    "error_class",
    "message",
    "frames",
    "gpu_s",
    "wall_s",
    "sha256",
    "video_bytes",
    "seam_score",
    "reused_segments",
    "findings",
    "drift",
    "seeds_tried",
)


def row_of(result: Result, *, render_key: str, segments_done: int, before: JobRow | None = None) -> JobRow:
    """The durable row of a job. Requests of people (in `before`) stay."""
    return replace(
        before or JobRow(),
        state=str(result.state),
        render_key=render_key,
        segments_done=segments_done,
        started_at=_text(result.started_at),
        finished_at=_text(result.finished_at),
        **{name: getattr(result, name) for name in _SAME},
    )


def result_of(job_id: str, row: JobRow, uri: str) -> Result:
    """The line of `results.parquet` for a job that is done."""
    return Result(
        job_id=job_id,
        state=row.state,
        uri=uri,
        started_at=_time(row.started_at),
        finished_at=_time(row.finished_at),
        **{name: getattr(row, name) for name in _SAME},
    )


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
