"""Reads Parquet manifests as a stream of rows, and checks one whole with every error of every row at once.

Three ways in:

    for row in read_manifest("s3://bucket/jobs.parquet"): ...    # row.job, or row.problems
    report = check_manifest("jobs.parquet")                      # nothing is raised; everything is in the report
    rows = load_manifest("jobs.parquet", strict=False)           # both: the rows, once no id is there twice
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from render_farm.errors import ManifestError, ManifestNotFoundError, Problem
from render_farm.job import columns
from render_farm.manifest.cells import WrongColumnTypeError, column_values
from render_farm.manifest.duplicates import DuplicateFinder, case_twins
from render_farm.manifest.files import resolve_uri
from render_farm.manifest.limits import LIMITS, ManifestLimits
from render_farm.manifest.parquet_file import ParquetTable, open_parquet
from render_farm.manifest.parts import open_manifest, place_of
from render_farm.manifest.rows import Row, case_note, make_row, row_label
from render_farm.manifest.schema import check_schema, wanted
from render_farm.uris import shown_uri

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
    warnings: tuple[str, ...] = ()
    """What there is to say of rows that can be rendered."""
    readable: bool = True
    """Whether there were a schema and rows to look at."""

    @property
    def ok(self) -> bool:
        return not self.fatal and not self.row_problems

    @property
    def problems(self) -> tuple[str, ...]:
        """Every line."""
        return self.fatal + self.row_problems


def problems_error(uri: str, problems: Sequence[str], limits: ManifestLimits = LIMITS) -> ManifestError:
    """The error that lists `problems` of the manifest or source at `uri`."""
    counted = f"{len(problems):,} problem{'s' if len(problems) != 1 else ''}"
    return ManifestError(f"{shown_uri(uri)}: {counted}", problems=tuple(_cut(problems, limits)))


def read_manifest(
    uri: str, *, batch_size: int | None = None, base: str | None = None, limits: ManifestLimits = LIMITS
) -> Iterator[Row]:
    """Every row of the Parquet manifest at `uri`, in order, streamed. A folder of Parquet files is one manifest.

    A bad row comes with its problems and without a job. Relative `image`, `last_image`, `video` and paths of `loras`
    are resolved against the manifest's place, or against the folder `base`. Repeated ids are not looked for:
    `load_manifest` and `check_manifest` do.
    Raises `ManifestError` for a file that is missing, unreadable or not Parquet, for one without rows or beyond
    `limits`, and for schema errors (all at once).
    """
    place = place_of(uri) if base is None else f"{base.rstrip('/')}/"
    with _open(uri, limits) as (table, names):
        number = 0
        for values_by_name, num_rows in _batches(uri, table, names, batch_size):
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
                if "shots" in given:
                    values["shots"] = _with_resolved_paths(place, values["shots"], "image")
                yield make_row(number, values)
        if not number:
            raise ManifestError(f"{shown_uri(uri)}: has no rows", advice="a manifest has one row per job")


def load_manifest(
    uri: str, *, strict: bool = False, base: str | None = None, limits: ManifestLimits = LIMITS
) -> list[Row]:
    """All rows of the manifest at `uri`, read once. Raises `ManifestError` as `read_manifest` does, for repeated ids,
    and with `strict` for bad rows; it lists every problem."""
    rows: list[Row] = []
    finder = DuplicateFinder()
    for row in read_manifest(uri, base=base, limits=limits):
        rows.append(row)
        if row.job_id:
            finder.add(row.number, row.job_id)
    repeated = list(finder.find(lambda: ((row.number, row.job_id) for row in rows if row.job_id)))
    bad = [line for row in rows for line in row.lines] if strict else []
    if repeated or bad:
        raise problems_error(uri, [duplicate_line(*found) for found in repeated] + bad, limits)
    for number, earlier in case_twins((row.number, row.job_id) for row in rows if row.job_id):
        rows[number - 1] = replace(rows[number - 1], case_twin=earlier)
    return rows


Further = Callable[[Row], tuple[Sequence[Problem], Sequence[str]]]


def check_manifest(uri: str, *, further: Further | None = None, limits: ManifestLimits = LIMITS) -> ManifestReport:
    """Everything that is wrong with the manifest at `uri`. Raises `ManifestNotFoundError` when there is none, and
    nothing for what a file can hold or lack. `further` gives more problems and warnings of a row that is right by
    itself."""
    finder, folded = DuplicateFinder(), DuplicateFinder()
    fatal: list[str] = []
    lines: list[str] = []
    warnings: list[str] = []
    noted: dict[str, tuple[str, int]] = {}
    """A note to its first row and the number of its rows."""
    num_rows = num_bad_rows = 0
    readable = True
    try:
        for row in read_manifest(uri, limits=limits):
            num_rows = row.number
            problems, notes = further(row) if further and row.job is not None else (row.problems, ())
            num_bad_rows += bool(problems)
            lines += [f"{row.label}: {problem}" for problem in problems]
            for note in notes:
                first, count = noted.get(note, (row.label, 0))
                noted[note] = (first, count + 1)
            if row.job_id:
                finder.add(row.number, row.job_id)
                folded.add(row.number, row.job_id.casefold())
        fatal += [duplicate_line(*found) for found in finder.find(lambda: read_ids(uri, limits))]
        if folded.has_repeated:
            ids = dict(read_ids(uri, limits))
            twins = case_twins(ids.items())
            warnings += [f"{row_label(n, ids[n])}: {case_note(ids[n], earlier)}" for n, earlier in twins]
    except ManifestNotFoundError:
        raise
    except ManifestError as error:
        fatal += error.problems or [str(error)]
        readable = bool(error.problems)
    return ManifestReport(
        uri=uri,
        num_rows=num_rows,
        num_bad_rows=num_bad_rows,
        fatal=tuple(_cut(fatal, limits)),
        row_problems=tuple(_cut(lines, limits)),
        warnings=tuple(_cut([_noted(note, *found) for note, found in noted.items()] + warnings, limits)),
        readable=readable,
    )


def _noted(note: str, first: str, count: int) -> str:
    more = f" and {count - 1:,} more" if count > 1 else ""
    return f"{first}{more}: {note}"


def read_ids(uri: str, limits: ManifestLimits = LIMITS) -> Iterator[tuple[int, str]]:
    """(row, job_id) of every row of a manifest that has been read before."""
    with _open(uri, limits) as (table, _):
        number = 0
        for values_by_name, num_rows in _batches(uri, table, ["job_id"], None):
            for job_id in values_by_name["job_id"] or [None] * num_rows:
                number += 1
                if isinstance(job_id, str) and job_id:
                    yield number, job_id


def _cut(lines: Sequence[str], limits: ManifestLimits) -> Sequence[str]:
    """`lines`, as many as anybody reads."""
    more = len(lines) - limits.max_problems
    return lines if more <= 0 else [*lines[: limits.max_problems], f"... and {more:,} more lines like these"]


def duplicate_line(number: int, earlier: int, job_id: str, place: str = "row") -> str:
    """The line for a repeated id."""
    return f"{row_label(number, job_id, place)}: job_id: is the same as in {place} {earlier}"


@contextmanager
def _open(uri: str, limits: ManifestLimits) -> Iterator[tuple[ParquetTable, list[str]]]:
    """The manifest's one table, and the columns of it to read."""
    with open_manifest(uri, limits) as handle, open_parquet(uri, handle, limits) as table:
        names = _checked_names(uri, table.schema)
        table.check_size(names)
        yield table, names


def _checked_names(uri: str, schema: pa.Schema) -> list[str]:
    names, problems = check_schema(schema)
    if problems:
        raise problems_error(uri, problems)
    return names


def _batches(
    uri: str, table: ParquetTable, names: list[str], batch_size: int | None
) -> Iterator[tuple[dict[str, list[Any] | None], int]]:
    kinds = {name: columns()[name].kind for name in names}
    for batch in table.batches(names, batch_size):
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
    return _resolved_text(uri, value) if isinstance(value, str) and value.strip() else value


@lru_cache(maxsize=4096)
def _resolved_text(uri: str, text: str) -> str:
    """One object for each address: thousands of rows may have the same."""
    return resolve_uri(uri, text)


def _with_resolved_paths(uri: str, items: Any, field: str = "path") -> Any:
    if not isinstance(items, list):
        return items
    return [{**item, field: _resolved(uri, item[field])} if _has(item, field) else item for item in items]


def _has(item: Any, field: str) -> bool:
    return isinstance(item, dict) and field in item
