"""`Row`: one line of a manifest, either a job or everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from render_farm.errors import InvalidJobError, Problem
from render_farm.job import JOB_ID, REQUIRED, RenderJob, ValueKind, columns, normalise

LARGEST = 2**63 - 1
"""Of the integers that a manifest stores."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row. `job` is None exactly when there are `problems`."""

    number: int
    """Rows are counted from 1."""
    job_id: str
    """As given, for messages; empty when there is none. Not checked when `job` is None."""
    job: RenderJob | None
    problems: tuple[Problem, ...] = ()
    case_twin: str = ""
    """The id of an earlier row that differs only in upper and lower case."""
    place: str = "row"
    """What `number` counts: rows of a manifest, lines of a text file."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The problems as complete lines: `row 3 (job_id=a): num_frames: 0 is less than 1`."""
        return tuple(f"{self.label}: {problem}" for problem in self.problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What there is to say of a row that can be rendered."""
        return (case_note(self.job_id, self.case_twin),) if self.case_twin else ()

    @property
    def label(self) -> str:
        """The row by number and job: `row 3 (job_id=a)`."""
        return row_label(self.number, self.job_id, self.place)


def case_note(job_id: str, twin: str) -> str:
    """The problem with two ids on a disk that ignores case."""
    return (
        f"job_id {job_id} and {twin} differ only in upper and lower case: where the output is copied to a Mac or to "
        "Windows, one replaces the other"
    )


def result_ids(rows: Sequence[Row]) -> dict[int, str]:
    """Row number to the id under which a bad row's failure is recorded: its own where it can name a folder, else its
    number, made so that it is no other row's."""
    bad = [row for row in rows if row.job is None]
    taken = {row.job_id.casefold() for row in rows} if any(not JOB_ID.fullmatch(row.job_id) for row in bad) else set()
    ids: dict[int, str] = {}
    for row in bad:
        name = row.job_id if JOB_ID.fullmatch(row.job_id) else f"row-{row.number}"
        while name != row.job_id and name.casefold() in taken:
            name += "-bad"
        ids[row.number] = name
    return ids


def row_label(number: int, job_id: str, place: str = "row") -> str:
    """How messages name a row. Ids that would break the line or flood it are shown escaped and cut."""
    if not job_id:
        return f"{place} {number}"
    shown = job_id if job_id.isprintable() else ascii(job_id)[1:-1]
    return f"{place} {number} (job_id={shown if len(shown) <= 80 else shown[:77] + '...'})"


def make_row(number: int, values: Mapping[str, Any], *, place: str = "row") -> Row:
    """The row of `values` (column name to value; absent and None are null). Never raises for what a cell holds."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in REQUIRED:
        given.setdefault(name, None)
    job_id = given["job_id"] if isinstance(given["job_id"], str) else ""
    try:
        job = RenderJob(**given)
        if all((getattr(job, name) or 0) <= LARGEST for name in _without_limit()):
            return Row(number=number, job_id=job_id, job=job, place=place)
    except InvalidJobError as error:
        return Row(number=number, job_id=job_id, job=None, problems=error.problems, place=place)
    except OverflowError:
        pass  # a number or time outside what Python can convert: found field by field below
    names = [name for name in columns() if name != "prompt" or given["prompt"] is not None or not given.get("shots")]
    problems = [problem for name in names for problem in _field_problems(name, given.get(name))]
    assert problems, "a row that was refused has a problem"
    return Row(number=number, job_id=job_id, job=None, problems=tuple(problems), place=place)


@cache
def _without_limit() -> tuple[str, ...]:
    """Integer columns that only their storage limits."""
    return tuple(name for name, column in columns().items() if column.kind is ValueKind.INTEGER and column.high is None)


def _field_problems(name: str, value: Any) -> list[Problem]:
    if value is None and name not in REQUIRED:
        return []
    if name in _without_limit() and isinstance(value, int | float) and value > LARGEST:
        return [Problem(field=name, message="is far out of range")]
    try:
        return normalise({name: value})[1]
    except OverflowError:
        return [Problem(field=name, message="is far out of range")]
