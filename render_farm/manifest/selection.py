"""Which rows of a manifest are rendered: `--where`, `--limit`, and the films that `--canary` renders first."""

from __future__ import annotations

import ast
import io
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import UsageError
from render_farm.job import Column, RenderJob, ValueKind, columns, normalise
from render_farm.manifest.rows import Row

Where = Callable[[RenderJob], bool]

_MOST_CHARACTERS = 2000
_EXAMPLE = "write it like: owner == 'ads' and num_frames > 97"
_ORDER: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NUMBERS = (ValueKind.INTEGER, ValueKind.NUMBER)


class _Refused(ValueError):
    """A part of the expression that is not understood."""


def parse_where(text: str) -> Where:
    """The condition that `text` states. It is parsed and never evaluated as Python.

    Known are columns, numbers, texts, True, False, None, lists, `tags['name']`, the comparisons `== != < <= > >= in`
    and `not in`, and `and or not`. A null is equal to None only, and neither less nor more than anything. A time is
    written as text. `in` looks into a text, into a list, and into every prompt of a list of prompts. UsageError for
    anything else.
    """
    try:
        if len(text) > _MOST_CHARACTERS:
            raise _Refused(f"has {len(text):,} characters; the most is {_MOST_CHARACTERS:,}")
        tree = ast.parse(text.strip(), mode="eval").body
        return _condition(tree)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise UsageError(f"--where {text[:200]!r}: is not an expression over columns", advice=_EXAMPLE) from error
    except ValueError as error:
        raise UsageError(f"--where {text[:200]!r}: {error}", advice=_EXAMPLE) from error


def select(rows: Sequence[Row], *, where: str | None, limit: int | None) -> list[Row]:
    """The first `limit` of the rows for which `where` holds. Bad rows have no values: a condition leaves them out."""
    chosen = list(rows)
    if where is not None:
        holds = parse_where(where)
        chosen = [row for row in rows if row.job is not None and holds(row.job)]
    return chosen if limit is None else chosen[:limit]


def first_of_each(rows: Sequence[Row], number: int) -> tuple[str, ...]:
    """The job ids of the `number` films that are rendered first: one of each model, task and set of LoRAs as far as
    `number` reaches, then others, in the manifest's order."""
    jobs = [row.job for row in rows if row.job is not None]
    kinds: dict[object, str] = {}
    for job in jobs:
        kinds.setdefault((job.model, job.task, _given(job), job.loras), job.job_id)
    firsts = set(list(kinds.values())[:number])
    others = [job.job_id for job in jobs if job.job_id not in firsts][: number - len(firsts)]
    return tuple(job.job_id for job in jobs if job.job_id in firsts or job.job_id in set(others))


def _given(job: RenderJob) -> tuple[bool, ...]:
    """Which inputs a job has: its task follows from them where it names none."""
    return job.image is not None, job.last_image is not None, job.video is not None


def rows_of_parquet(manifest: bytes, numbers: Collection[int]) -> bytes:
    """A manifest with only the rows of these numbers, counted from 1, in their order."""
    table = pq.ParquetFile(io.BytesIO(manifest), pre_buffer=False).read(use_threads=False)
    sink = io.BytesIO()
    pq.write_table(table.take(pa.array([number - 1 for number in sorted(numbers)], pa.int64())), sink)
    return sink.getvalue()


def _condition(node: ast.expr) -> Where:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            every = [_condition(value) for value in values]
            return lambda job: all(holds(job) for holds in every)
        case ast.BoolOp(op=ast.Or(), values=values):
            some = [_condition(value) for value in values]
            return lambda job: any(holds(job) for holds in some)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _condition(operand)
            return lambda job: not inner(job)
        case ast.Constant(value=bool() as value):
            return lambda job: value
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            pairs = [_comparison(sides[at], op, sides[at + 1]) for at, op in enumerate(ops)]
            return lambda job: all(holds(job) for holds in pairs)
        case ast.Name() | ast.Subscript():
            read = _value(node, None)
            return lambda job: bool(read(job))
    raise _Refused(f"{_shown(node)} is not a condition")


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Where:
    column = _column_of(left) or _column_of(right)
    a, b = _value(left, column), _value(right, column)
    match op:
        case ast.Eq() | ast.Is():
            return lambda job: _is_same(a(job), b(job))
        case ast.NotEq() | ast.IsNot():
            return lambda job: not _is_same(a(job), b(job))
        case ast.In():
            return lambda job: _is_in(a(job), b(job))
        case ast.NotIn():
            return lambda job: not _is_in(a(job), b(job))
    compare = _ORDER[type(op)]
    for side in (left, right):
        if isinstance(side, ast.Constant) and isinstance(side.value, bool | None):
            raise _Refused(f"{_shown(side)} is neither less nor more than anything")

    def ordered(job: RenderJob) -> bool:
        one, other = a(job), b(job)
        try:
            return one is not None and other is not None and compare(one, other)
        except TypeError:
            return False

    return ordered


def _is_same(one: Any, other: Any) -> bool:
    """A list is written as a list, and a job has it as a tuple."""
    one, other = (tuple(side) if isinstance(side, list) else side for side in (one, other))
    return bool(one == other)


def _is_in(item: Any, container: Any) -> bool:
    if isinstance(container, str):
        return isinstance(item, str) and item in container
    if isinstance(container, tuple) and isinstance(item, str) and all(isinstance(text, str) for text in container):
        return any(item in text for text in container)
    if isinstance(container, list):
        return item in container
    return isinstance(container, Mapping | tuple) and item in container


def _value(node: ast.expr, column: Column | None) -> Callable[[RenderJob], Any]:
    """Reads a side of a comparison. `column` is what the other side may have to fit."""
    match node:
        case ast.Name(id=name):
            _known(name)
            return lambda job: getattr(job, name)
        case ast.Subscript(value=ast.Name(id="tags"), slice=ast.Constant(value=str() as key)):
            return lambda job: (job.tags or {}).get(key)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            values = [_literal(item, column) for item in items]
            return lambda job: values
    literal = _literal(node, column)
    return lambda job: literal


def _literal(node: ast.expr, column: Column | None) -> Any:
    match node:
        case ast.Constant(value=None | bool() | str() | int() | float() as value):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            value = -number
        case _:
            raise _Refused(f"{_shown(node)} is neither a column nor a value")
    if value is None or column is None:
        return value
    if column.kind in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise _Refused(f"{value!r} is compared with a column of numbers")
    if column.kind is ValueKind.TEXT and not isinstance(value, str):
        raise _Refused(f"{value!r} is compared with a column of texts; put it in quotes")
    if column.kind is ValueKind.TIMESTAMP:
        return _time(value)
    return value


def _time(value: object) -> datetime:
    clean, problems = normalise({"deadline": value})
    if problems:
        raise _Refused(problems[0].message)
    found: datetime = clean["deadline"]
    return found


def _column_of(node: ast.expr) -> Column | None:
    return _known(node.id) if isinstance(node, ast.Name) else None


def _known(name: str) -> Column:
    found = columns().get(name)
    if found is None:
        near = get_close_matches(name, columns(), n=1, cutoff=0.4)
        raise _Refused(f"{name!r} is not a column" + (f"; did you mean {near[0]}?" if near else ""))
    return found


def _shown(node: ast.AST) -> str:
    return repr(ast.unparse(node)[:80])
