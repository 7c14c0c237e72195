"""The rows of a small Parquet file that is in memory."""

from __future__ import annotations

import io
from typing import Any

import pyarrow.parquet as pq


def read_rows(content: bytes, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """All rows, or some columns of them; read by the calling thread alone. A thread of pyarrow that still holds
    `content` when the process ends, as a command that read it does, would abort it."""
    file = pq.ParquetFile(io.BytesIO(content), pre_buffer=False)
    rows: list[dict[str, Any]] = file.read(columns=columns, use_threads=False).to_pylist()
    return rows
