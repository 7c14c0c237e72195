"""`results.parquet`: one row per job, with its end."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.storage.layout import RunKeys
from render_farm.storage.store import Store

_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("job_id", pa.string()),
        ("state", pa.string()),
        ("error_class", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("segments", pa.int32()),
        ("wall_s", pa.float64()),
        ("gpu_s", pa.float64()),
        ("frames", pa.int32()),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("seam_score", pa.float64()),
        ("started_at", _TIME),
        ("finished_at", _TIME),
        ("reused_segments", pa.int32()),
        ("findings", pa.list_(pa.string())),
        ("drift", pa.float64()),
        ("seeds_tried", pa.list_(pa.int64())),
    ]
)


@dataclass(kw_only=True, slots=True)
class Result:
    """One row. Unknown values are None. Times are UTC."""

    job_id: str
    state: str
    error_class: str | None = None
    message: str | None = None
    attempts: int = 0
    segments: int | None = None
    wall_s: float | None = None
    gpu_s: float | None = None
    frames: int | None = None
    uri: str | None = None
    sha256: str | None = None
    video_bytes: int | None = None
    """Size of the video; no column."""
    seam_score: float | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reused_segments: int | None = None
    """Segments that were rendered for other films, or for this one before its row changed."""
    findings: tuple[str, ...] | None = None
    """What the checks found in its pictures, also where that is why it failed."""
    drift: float | None = None
    """How far the colours of its segments drift (`media/checks.py`)."""
    seeds_tried: tuple[int, ...] | None = None
    """Seeds that were rendered until there was a film without findings, the published one last."""


def write_results(store: Store, run_id: str, results: Iterable[Result]) -> None:
    """Write the run's `results.parquet`, whole or not at all."""
    store.write_bytes(RunKeys(run_id=run_id).results, dump_results(results))


def dump_results(results: Iterable[Result]) -> bytes:
    """The bytes of a `results.parquet`."""
    rows = list(results)
    columns = [pa.array([_storable(getattr(row, field.name)) for row in rows], field.type) for field in SCHEMA]
    table = pa.table(columns, schema=SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    del columns, table
    pa.default_memory_pool().release_unused()  # it would keep 40 MiB of 100,000 rows in the coordinator
    return sink.getvalue()


def _storable(value: Any) -> Any:
    """Half a character (a lone surrogate), which JSON can hold and UTF-8 cannot, is written as its escape."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
