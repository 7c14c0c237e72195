"""One Arrow column to plain Python values, a whole column at a time (a Python object per cell is what costs).

A cell that cannot be converted becomes a `BadCell`, so that one bad row does not hide the others.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from render_farm.job import BadCell, ValueKind, shot_columns
from render_farm.manifest.schema import is_list, is_text, unwrap

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class WrongColumnTypeError(ValueError):
    """A float column that holds numbers where its kind allows none; only NaN, which means null, may be there."""


def column_values(array: pa.Array, kind: ValueKind) -> list[Any] | None:
    """The values of `array` for `job.normalise`, None for a column that is all null.

    The array's type is one that `schema.accepts`. Raises `WrongColumnTypeError`.
    """
    if array.null_count == len(array) or types.is_null(array.type):
        return None
    array = _storage(array)
    stored = unwrap(array.type)
    if types.is_floating(stored):
        return _floats(decoded(array), kind)
    if kind is ValueKind.TIMESTAMP and not is_text(stored):
        return _times(decoded(array))
    values = _to_pylist(array)
    if kind is ValueKind.TAGS and types.is_struct(array.type):
        # Writers that store a dictionary as a struct give every row every key: null means the key is not there.
        return [value and {key: item for key, item in value.items() if item is not None} for value in values]
    if kind is ValueKind.TEXTS and is_list(array.type):
        # A manifest with one prompt list stores every prompt as a list; a list of one is that prompt.
        return [value[0] if value is not None and len(value) == 1 else value for value in values]
    if kind is ValueKind.INTEGERS:
        return [value and [_from_decimal(item) for item in value] for value in values]
    if kind in (ValueKind.LORAS, ValueKind.SHOTS):
        fields = _fields(stored)
        return [value and [_entry(item, fields) for item in value] for value in values]
    if types.is_decimal(stored):
        return [_from_decimal(value, kind) for value in values]
    return values


def _storage(array: pa.Array) -> pa.Array:
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array


def decoded(array: pa.Array) -> pa.Array:
    """The values themselves, without extension names and dictionaries."""
    array = _storage(array)
    return decoded(array.dictionary_decode()) if types.is_dictionary(array.type) else array


_EXACT = {pa.float16(): (2**11, "16-bit"), pa.float32(): (2**24, "32-bit")}
"""Up to where these hold every whole number. `job.EXACT_FLOAT` is that of 64 bits."""


def _floats(array: pa.Array, kind: ValueKind) -> list[Any] | None:
    values: list[Any] = array.to_pylist()
    if kind in (ValueKind.INTEGER, ValueKind.NUMBER):
        return [_exact(value, array.type, kind) for value in values]
    if all(value is None or math.isnan(value) for value in values):
        return None
    raise WrongColumnTypeError


def _exact(value: Any, stored: pa.DataType, kind: ValueKind) -> Any:
    """A number as it was stored, where its float holds whole numbers of that size exactly."""
    if kind is not ValueKind.INTEGER or stored not in _EXACT or not isinstance(value, float):
        return value
    most, width = _EXACT[stored]
    if not most <= abs(value) < math.inf:
        return value
    return BadCell(f"{value!r} is a {width} float of {most:,} or more, which is not exact; store it as an integer")


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
    """As `pa.Array.to_pylist`, but rows with the same dictionary value share one object, at any depth, and text that
    is not UTF-8 is a `BadCell`."""
    array = _storage(array)
    kind = array.type
    if types.is_dictionary(kind):
        used = array.indices.unique().drop_null()
        values = dict(zip(used.to_pylist(), _to_pylist(array.dictionary.take(used)), strict=True))
        return [None if index is None else values[index] for index in array.indices.to_pylist()]
    if types.is_map(kind):
        ends = array.offsets.to_pylist()
        keys, items = (_to_pylist(child[ends[0] : ends[-1]]) for child in (array.keys, array.items))
        pairs = list(zip(keys, items, strict=True))
        return [
            pairs[start - ends[0] : end - ends[0]] if valid else None
            for (start, end), valid in zip(pairwise(ends), array.is_valid().to_pylist(), strict=True)
        ]
    if is_list(kind):
        entries = iter(_to_pylist(array.flatten()))
        lengths = pc.list_value_length(array).to_pylist()
        return [None if length is None else list(islice(entries, length)) for length in lengths]
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        cells = zip(*(_to_pylist(child) for child in array.flatten()), strict=True)
        there = array.is_valid().to_pylist()
        if not names:
            return [{} if valid else None for valid in there]
        return [
            dict(zip(names, values, strict=True)) if valid else None for valid, values in zip(there, cells, strict=True)
        ]
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        return [_one(array[i]) for i in range(len(array))]


def _one(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return BadCell("is not UTF-8 text")


def _from_decimal(value: Any, kind: ValueKind = ValueKind.NUMBER) -> Any:
    if not isinstance(value, Decimal):
        return value
    if value == value.to_integral_value():
        return int(value)
    return BadCell(f"{value} is not a whole number") if kind is ValueKind.INTEGER else float(value)


_Fields = dict[str, tuple[pa.DataType, ValueKind]]


def _fields(stored: pa.DataType) -> _Fields:
    """The numbers among the fields of a list of structs (shots, LoRAs): how they are stored, and their kinds."""
    item = unwrap(stored.value_type) if is_list(stored) else stored
    kinds = {name: column.kind for name, column in shot_columns().items()}
    fields = list(item) if types.is_struct(item) else []
    return {field.name: (unwrap(field.type), kinds.get(field.name, ValueKind.NUMBER)) for field in fields}


def _entry(item: Any, fields: _Fields) -> Any:
    if not isinstance(item, dict):
        return item
    return {name: _from_decimal(_exact(value, *fields[name]), fields[name][1]) for name, value in item.items()}
