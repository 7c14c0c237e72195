"""Opens a Parquet file so that reading it costs what its footer says, and says what is wrong with other files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import ManifestError
from render_farm.manifest.footer import column_sizes
from render_farm.manifest.limits import ManifestLimits, raising
from render_farm.manifest.schema import check_schema
from render_farm.uris import shown_uri

MOST_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 64 << 20
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"


@contextmanager
def open_parquet(uri: str, handle: IO[bytes]) -> Iterator[pq.ParquetFile]:
    """The Parquet file in `handle`. Texts stay dictionaries, so that one value of many rows is in memory once. Raises
    `ManifestError`, also for what is found while it is read."""
    with _parquet_errors(uri, handle):
        # A buffer makes pyarrow read a column chunk piece by piece: memory stays constant for any row group. Spark's
        # int96 times count nanoseconds of a day, but in nanoseconds since 1970 they end in 2262.
        options: Any = {"buffer_size": 1 << 20, "pre_buffer": False, "coerce_int96_timestamp_unit": "us"}
        file = pq.ParquetFile(handle, **options)
        names, problems = check_schema(file.schema_arrow, required=())
        leaves = [file.schema.column(i) for i in range(0 if problems else len(file.schema))]
        texts = [leaf.path for leaf in leaves if leaf.converted_type == "UTF8" and leaf.path.split(".")[0] in names]
        yield pq.ParquetFile(handle, metadata=file.metadata, read_dictionary=texts, **options)


def rows_at_once(file: pq.ParquetFile) -> int:
    """How many rows to decode at a time: about 64 MiB of them."""
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(MOST_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(widest, 1)))


def check_size(
    uri: str,
    handle: IO[bytes],
    file: pq.ParquetFile,
    names: list[str],
    limits: ManifestLimits,
    num_rows: int = 0,
    num_bytes: int = 0,
) -> tuple[int, int]:
    """Refuse a file that decodes to more than `limits` allow, by its footer. `num_rows` and `num_bytes` count what
    other parts hold. Returns both with this file's. Raises `ManifestError`."""
    num_rows += file.metadata.num_rows
    num_bytes += handle.seek(0, os.SEEK_END)
    num_values: Counter[str] = Counter()
    try:
        for column in column_sizes(handle, limits.max_header_bytes):
            if column.name in names:
                num_values[column.name] += max(column.num_values, 0)
                num_bytes += max(column.num_bytes, 0)
    except ValueError as error:
        raise ManifestError(f"{shown_uri(uri)}: a Parquet file that is damaged: {error}") from error
    counted = [
        (num_rows, limits.max_rows, "rows", "max_rows"),
        (max(num_values.values(), default=0), limits.max_values, "entries in the lists of one column", "max_rows"),
        (num_bytes, limits.max_bytes, "bytes, its columns decompressed", "max_bytes"),
    ]
    for count, most, what, name in counted:
        if count > most:
            raise ManifestError(
                f"{shown_uri(uri)}: has {count:,} {what}; the most is {most:,}", advice=f"split it, {raising(name)}"
            )
    return num_rows, num_bytes


@contextmanager
def _parquet_errors(uri: str, handle: IO[bytes]) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # the disk or the network, not what the file holds
        handle.seek(0)
        start = handle.read(4)
        if start == _ENCRYPTED or (start == _MAGIC and "crypt" in str(error).lower()):
            raise ManifestError(
                f"{shown_uri(uri)}: is encrypted (Parquet modular encryption)",
                advice="write it without encryption; a bucket's own encryption does no harm",
            ) from error
        if start == _MAGIC:
            raise ManifestError(
                f"{shown_uri(uri)}: a Parquet file that is damaged or cut short ({_first_line(error)})",
                advice="write it again",
            ) from error
        if not start:
            raise ManifestError(
                f"{shown_uri(uri)}: is empty (0 bytes)", advice="a manifest is a Parquet file"
            ) from error
        raise ManifestError(
            f"{shown_uri(uri)}: is not a Parquet file",
            advice="make one from CSV, JSONL or YAML: render-farm manifest build SOURCE -o MANIFEST.parquet",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
