"""Opens a Parquet file so that reading it costs what its footer says, and says what is wrong with other files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import ManifestError
from render_farm.manifest.footer import ColumnSize, column_sizes
from render_farm.manifest.limits import ManifestLimits, raising
from render_farm.manifest.schema import check_schema
from render_farm.uris import shown_uri

MOST_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 64 << 20
_GROWING_ROWS_AT_ONCE = 16
"""Of texts that may be longer than what is stored of them."""
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"


@dataclass(frozen=True, kw_only=True)
class ParquetTable:
    """An open Parquet file, which may be a part of a manifest."""

    uri: str
    file: pq.ParquetFile
    limits: ManifestLimits
    column_sizes: list[ColumnSize]
    num_file_bytes: int

    @property
    def schema(self) -> pa.Schema:
        return self.file.schema_arrow

    def check_size(self, names: list[str], num_rows: int = 0, num_bytes: int = 0) -> tuple[int, int]:
        """Refuse a file that decodes to more than the limits allow. `num_rows` and `num_bytes` count what other parts
        hold. Returns both with this file's. Raises `ManifestError`."""
        groups = (self.file.metadata.row_group(i) for i in range(self.file.metadata.num_row_groups))
        num_rows += max(self.file.metadata.num_rows, sum(group.num_rows for group in groups))
        num_bytes += self.num_file_bytes
        num_values: Counter[str] = Counter()
        for column in self.column_sizes:
            if column.name in names:
                num_values[column.name] += max(column.num_values, 0)
                num_bytes += max(column.num_bytes, 0)
        limits = self.limits
        counted = [
            (num_rows, limits.max_rows, "rows", "max_rows"),
            (max(num_values.values(), default=0), limits.max_values, "entries in the lists of one column", "max_rows"),
            (num_bytes, limits.max_bytes, "bytes, its columns decompressed", "max_bytes"),
        ]
        for count, most, what, name in counted:
            if count > most:
                raise self._too_large(f"has {count:,} {what}; the most is {most:,}", name)
        return num_rows, num_bytes

    def batches(self, names: list[str], num_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """The columns `names`, so many rows at a time, by default about 64 MiB. Raises `ManifestError`."""
        growing = {column.name for column in self.column_sizes if column.repeats_prefixes} & set(names)
        num_bytes, num_rows = 0, num_rows or self._rows_at_once()
        if growing:
            num_rows = min(num_rows, _GROWING_ROWS_AT_ONCE)
        for batch in self.file.iter_batches(batch_size=num_rows, columns=names, use_threads=False):
            num_bytes += sum(batch.column(name).nbytes for name in growing)
            if num_bytes > self.limits.max_bytes:
                raise self._too_large(f"has more than {self.limits.max_bytes:,} bytes of texts", "max_bytes")
            yield batch

    def _rows_at_once(self) -> int:
        groups = (self.file.metadata.row_group(i) for i in range(self.file.metadata.num_row_groups))
        widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
        return max(1, min(MOST_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(widest, 1)))

    def _too_large(self, problem: str, limit: str) -> ManifestError:
        return ManifestError(f"{shown_uri(self.uri)}: {problem}", advice=f"split it, {raising(limit)}")


@contextmanager
def open_parquet(uri: str, handle: IO[bytes], limits: ManifestLimits) -> Iterator[ParquetTable]:
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
        try:
            sizes = column_sizes(handle, limits.max_header_bytes)
        except ValueError as error:
            raise ManifestError(f"{shown_uri(uri)}: a Parquet file that is damaged: {error}") from error
        differences = {column.path for column in sizes if column.is_delta}
        texts = [path for path in texts if path not in differences]  # pyarrow makes no dictionaries of those
        yield ParquetTable(
            uri=uri,
            file=pq.ParquetFile(handle, metadata=file.metadata, read_dictionary=texts, **options),
            limits=limits,
            column_sizes=sizes,
            num_file_bytes=handle.seek(0, os.SEEK_END),
        )


@contextmanager
def _parquet_errors(uri: str, handle: IO[bytes]) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ManifestError(
            f"{shown_uri(uri)}: decodes to more than this machine's memory", advice="split it, or write it again"
        ) from error
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
