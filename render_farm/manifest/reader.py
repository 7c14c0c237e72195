"""Reads Parquet manifests as a stream of rows, and checks one whole with every error of every row at once.

Three ways in:

    for row in read_manifest("s3://bucket/jobs.parquet"): ...    # row.job, or row.problems
    report = check_manifest("jobs.parquet")                      # nothing is raised; everything is in the report
    rows = load_manifest("jobs.parquet", strict=False)           # both: the rows, once no id is there twice
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import ManifestError, ManifestNotFoundError
from render_farm.job import columns
from render_farm.manifest.cells import WrongColumnTypeError, column_values
from render_farm.manifest.duplicates import DuplicateFinder
from render_farm.manifest.files import open_binary, resolve_uri
from render_farm.manifest.rows import Row, make_row, row_label
from render_farm.manifest.schema import check_schema, wanted
from render_farm.uris import shown_uri

ROWS_A_BATCH = 4096
_URI_COLUMNS = ("image", "last_image", "video")


@dataclass(frozen=True, kw_only=True)
class ManifestReport:
    """What `check_manifest` found."""

    uri: str
    num_rows: int
    num_bad_rows: int
    fatal: tuple[str, ...]
    """Why the manifest cannot be used at all: unreadable, a schema error, a duplicate id."""
    row_problems: tuple[str, ...]
    """What is wrong with rows, each of which fails alone."""
    readable: bool = True
    """Whether there were a schema and rows to look at."""

    @property
    def ok(self) -> bool:
        return not self.fatal and not self.row_problems

    @property
    def problems(self) -> tuple[str, ...]:
        """Every line."""
        return self.fatal + self.row_problems


def problems_error(uri: str, problems: Iterable[str]) -> ManifestError:
    """The error that lists `problems` of the manifest or source at `uri`."""
    lines = tuple(problems)
    return ManifestError(f"{shown_uri(uri)}: {len(lines)} problem{'s' if len(lines) != 1 else ''}", problems=lines)


def read_manifest(uri: str, *, batch_size: int = ROWS_A_BATCH, base: str | None = None) -> Iterator[Row]:
    """Every row of the Parquet manifest at `uri`, in order, streamed.

    A bad row comes with its problems and without a job. Relative `image`, `last_image`, `video` and paths of `loras`
    are resolved against the manifest's place, or against the folder `base`. Repeated ids are not looked for:
    `load_manifest` and `check_manifest` do.
    Raises `ManifestError` for a file that is missing, unreadable or not Parquet, and for schema errors (all at once).
    """
    place = uri if base is None else f"{base.rstrip('/')}/"
    with _open_parquet(uri) as file:
        names = _checked_names(uri, file)
        number = 0
        for values_by_name, num_rows in _batches(uri, file, names, batch_size):
            # Columns that are all null (None) cost nothing. The first one keeps count where every column is.
            given = {"job_id": [None] * num_rows, **{name: v for name, v in values_by_name.items() if v is not None}}
            inputs = [name for name in _URI_COLUMNS if name in given]
            for cells in zip(*given.values(), strict=True):
                number += 1
                values = dict(zip(given, cells, strict=True))
                for name in inputs:
                    values[name] = _resolved(place, values[name])
                if "loras" in given:
                    values["loras"] = _with_resolved_paths(place, values["loras"])
                yield make_row(number, values)


def load_manifest(uri: str, *, strict: bool = False, base: str | None = None) -> list[Row]:
    """All rows of the manifest at `uri`, read once. Raises `ManifestError` as `read_manifest` does, for repeated ids,
    and with `strict` for bad rows; it lists every problem."""
    rows: list[Row] = []
    finder = DuplicateFinder()
    for row in read_manifest(uri, base=base):
        rows.append(row)
        if row.job_id:
            finder.add(row.number, row.job_id)
    repeated = list(finder.find(lambda: ((row.number, row.job_id) for row in rows if row.job_id)))
    bad = [line for row in rows for line in row.lines] if strict else []
    if repeated or bad:
        raise problems_error(uri, [duplicate_line(*found) for found in repeated] + bad)
    return rows


def check_manifest(uri: str) -> ManifestReport:
    """Everything that is wrong with the manifest at `uri`; raises nothing for what a file can hold or lack."""
    finder = DuplicateFinder()
    fatal: list[str] = []
    lines: list[str] = []
    num_rows = num_bad_rows = 0
    readable = True
    try:
        for row in read_manifest(uri):
            num_rows = row.number
            num_bad_rows += row.job is None
            lines += row.lines
            if row.job_id:
                finder.add(row.number, row.job_id)
        fatal += [duplicate_line(*found) for found in finder.find(lambda: read_ids(uri))]
    except ManifestNotFoundError:
        raise
    except ManifestError as error:
        fatal += error.problems or [str(error)]
        readable = bool(error.problems)
    return ManifestReport(
        uri=uri,
        num_rows=num_rows,
        num_bad_rows=num_bad_rows,
        fatal=tuple(fatal),
        row_problems=tuple(lines),
        readable=readable,
    )


def read_ids(uri: str) -> Iterator[tuple[int, str]]:
    """(row, job_id) of every row of a manifest that has been read before."""
    with _open_parquet(uri) as file:
        number = 0
        for values_by_name, num_rows in _batches(uri, file, ["job_id"], ROWS_A_BATCH):
            for job_id in values_by_name["job_id"] or [None] * num_rows:
                number += 1
                if isinstance(job_id, str) and job_id:
                    yield number, job_id


def duplicate_line(number: int, earlier: int, job_id: str, place: str = "row") -> str:
    """The line for a repeated id."""
    return f"{row_label(number, job_id, place)}: job_id: is the same as in {place} {earlier}"


@contextmanager
def _open_parquet(uri: str) -> Iterator[pq.ParquetFile]:
    with open_binary(uri) as handle, _parquet_errors(uri, handle):
        # A buffer makes pyarrow read a column chunk piece by piece: memory stays constant for any row group.
        yield pq.ParquetFile(handle, buffer_size=1 << 20, pre_buffer=False)


@contextmanager
def _parquet_errors(uri: str, handle: IO[bytes]) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # the disk or the network, not what the file holds
        handle.seek(0)
        start = handle.read(4)
        if start == b"PAR1":
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


def _checked_names(uri: str, file: pq.ParquetFile) -> list[str]:
    names, problems = check_schema(file.schema_arrow)
    if problems:
        raise problems_error(uri, problems)
    return names


def _batches(
    uri: str, file: pq.ParquetFile, names: list[str], batch_size: int
) -> Iterator[tuple[dict[str, list[Any] | None], int]]:
    kinds = {name: columns()[name].kind for name in names}
    for batch in file.iter_batches(batch_size=batch_size, columns=names, use_threads=False):
        values: dict[str, list[Any] | None] = {}
        problems: list[str] = []
        for name in names:
            array = batch.column(name)
            try:
                values[name] = column_values(array, kinds[name])
            except WrongColumnTypeError:
                problems.append(f"column {name}: has type {array.type}, but needs {wanted(name)}")
        if problems:
            raise problems_error(uri, problems)
        yield values, batch.num_rows


def _resolved(uri: str, value: Any) -> Any:
    return resolve_uri(uri, value) if isinstance(value, str) and value else value


def _with_resolved_paths(uri: str, loras: Any) -> Any:
    if not isinstance(loras, list):
        return loras
    return [{**item, "path": _resolved(uri, item.get("path"))} if isinstance(item, dict) else item for item in loras]
