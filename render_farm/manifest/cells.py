"""One Arrow column to plain Python values, a whole column at a time (a Python object per cell is what costs).

A cell that cannot be converted becomes a `BadCell`, so that one bad row does not hide the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as types

from render_farm.job import ValueKind
from render_farm.manifest.schema import is_list, is_text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class BadCell:
    """A value that could not be read, and why."""

    message: str


class WrongColumnTypeError(ValueError):
    """A float column that holds numbers where its kind allows none; only NaN, which means null, may be there."""


def column_values(array: pa.Array, kind: ValueKind) -> list[Any] | None:
    """The values of `array` for `job.normalise`, None for a column that is all null.

    The array's type is one that `schema.accepts`. Raises `WrongColumnTypeError`.
    """
    if array.null_count == len(array) or types.is_null(array.type):
        return None
    array = _plain(array)
    if types.is_floating(array.type):
        return _floats(array, kind)
    if kind is ValueKind.TIMESTAMP and not is_text(array.type):
        return _times(array)
    values = _to_pylist(array)
    if kind is ValueKind.TAGS and types.is_struct(array.type):
        # Writers that store a dictionary as a struct give every row every key: null means the key is not there.
        return [value and {key: item for key, item in value.items() if item is not None} for value in values]
    if kind is ValueKind.TEXTS and is_list(array.type):
        # A manifest with one prompt list stores every prompt as a list; a list of one is that prompt.
        return [value[0] if value is not None and len(value) == 1 else value for value in values]
    if kind is ValueKind.INTEGERS:
        return [value and [_from_decimal(item) for item in value] for value in values]
    if kind is ValueKind.LORAS:
        return [value and [_without_decimals(item) for item in value] for value in values]
    if types.is_decimal(array.type):
        return [_from_decimal(value) for value in values]
    return values


def _plain(array: pa.Array) -> pa.Array:
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif types.is_dictionary(array.type):
            array = array.dictionary_decode()
        else:
            return array


def _floats(array: pa.Array, kind: ValueKind) -> list[Any] | None:
    values: list[Any] = array.to_pylist()
    if kind in (ValueKind.INTEGER, ValueKind.NUMBER):
        return values
    if all(value is None or math.isnan(value) for value in values):
        return None
    raise WrongColumnTypeError


def _times(array: pa.Array) -> list[Any]:
    """Timestamps of any unit and zone, as UTC. A time without a zone is UTC."""
    if types.is_date(array.type):
        array = array.cast(pa.timestamp("ms" if types.is_date64(array.type) else "s"))
    unit: Any = array.type.unit
    counts = array.cast(pa.timestamp(unit)).cast(pa.int64()).to_pylist()
    return [None if count is None else _time(count, unit) for count in counts]


def _time(count: int, unit: str) -> datetime | BadCell:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    try:
        return _EPOCH + timedelta(microseconds=count * 10**6 // per_second)
    except OverflowError:
        return BadCell("is not within the years 1 to 9999")


def _to_pylist(array: pa.Array) -> list[Any]:
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        return [_one(array[i]) for i in range(len(array))]


def _one(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return BadCell("is not UTF-8 text")


def _from_decimal(value: Any) -> Any:
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)


def _without_decimals(item: Any) -> Any:
    return {key: _from_decimal(value) for key, value in item.items()} if isinstance(item, dict) else item
