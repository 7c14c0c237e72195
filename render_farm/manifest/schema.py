"""The manifest's Arrow schema, derived from `job.columns()`: what is written, and which stored types are accepted.

Other tools write manifests too, so every Arrow type that holds the right values is accepted: any width of integer or
float, large and dictionary-encoded strings, maps or structs, columns of type null. Floats pass for every kind,
because an empty column is often stored as NaN; `cells.py` refuses other values in them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache

import pyarrow as pa
import pyarrow.types as types

from render_farm.job import REQUIRED, ValueKind, columns, shot_columns

_WRITTEN: dict[ValueKind, pa.DataType] = {
    ValueKind.TEXT: pa.string(),
    ValueKind.TEXTS: pa.string(),
    ValueKind.INTEGER: pa.int64(),
    ValueKind.INTEGERS: pa.list_(pa.int64()),
    ValueKind.NUMBER: pa.float64(),
    ValueKind.BOOLEAN: pa.bool_(),
    ValueKind.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    ValueKind.TAGS: pa.map_(pa.string(), pa.string()),
    ValueKind.LORAS: pa.list_(pa.struct([("path", pa.string()), ("weight", pa.float64())])),
    ValueKind.SHOTS: pa.list_(
        pa.struct(
            [
                ("prompt", pa.string()),
                ("num_frames", pa.int64()),
                ("cut", pa.bool_()),
                ("seed", pa.int64()),
                ("guidance_scale", pa.float64()),
                ("image", pa.string()),
            ]
        )
    ),
}

_WANTED: dict[ValueKind, str] = {
    ValueKind.TEXT: "string",
    ValueKind.TEXTS: "string or list<string>",
    ValueKind.INTEGER: "an integer type (int64), or floats without a fraction",
    ValueKind.INTEGERS: "list<int64>",
    ValueKind.NUMBER: "a float or integer type (double)",
    ValueKind.BOOLEAN: "bool",
    ValueKind.TIMESTAMP: "timestamp in UTC, or text like 2030-01-31T06:00:00Z",
    ValueKind.TAGS: "map<string, string>",
    ValueKind.LORAS: "list<struct<path: string, weight: double>>",
    ValueKind.SHOTS: "list<struct<prompt: string, num_frames: int64, cut: bool, seed: int64, guidance_scale: double, "
    "image: string>>; only prompt is required",
}


def manifest_schema(*, prompt_lists: bool = False) -> pa.Schema:
    """The schema that manifests are written with: every column, in order.

    `prompt` is a string column, or with `prompt_lists` a list<string> column (one prompt a segment).
    """
    return pa.schema(
        pa.field(
            name,
            pa.list_(pa.string()) if prompt_lists and column.kind is ValueKind.TEXTS else _WRITTEN[column.kind],
            nullable=name not in REQUIRED,
        )
        for name, column in columns().items()
    )


def check_schema(schema: pa.Schema, required: Iterable[str] = REQUIRED) -> tuple[list[str], list[str]]:
    """Which columns of `schema` to read, and everything wrong with it, as lines. No problems: the schema works."""
    ignored = _pandas_index_columns(schema)
    names: list[str] = []
    problems: list[str] = []
    unknown: list[str] = []
    for field in schema:
        if field.name in columns():
            if field.name in names:
                problems.append(f"column {field.name}: appears twice")
                continue
            names.append(field.name)
            if not accepts(columns()[field.name].kind, field.type):
                problems.append(f"column {field.name}: has type {field.type}, but needs {wanted(field.name)}")
        elif field.name not in ignored:
            unknown.append(field.name)
    problems += unknown_columns(unknown)
    missing = [name for name in required if name not in names and not (name == "prompt" and "shots" in names)]
    problems += [f"column {name}: is missing, and every job needs it" for name in missing]
    return names, problems


def unknown_columns(names: Sequence[str]) -> list[str]:
    """The lines that refuse columns which no job has, each with the nearest known one."""
    more = len(names) - _SHOWN_COLUMNS
    lines = [_unknown_column(name) for name in names[:_SHOWN_COLUMNS]]
    return lines + ([f"... and {more:,} more columns that are not known"] if more > 0 else [])


@lru_cache(maxsize=1024)
def _unknown_column(name: str) -> str:
    cut = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."
    shown = cut if cut.isprintable() and cut else ascii(cut)
    return f"column {shown}: is not known; {_nearest(cut, columns())}"


def wanted(name: str) -> str:
    """Which Arrow type column `name` should have, in words."""
    return _WANTED[columns()[name].kind]


_SHOWN_COLUMNS, _LONGEST_NAME = 20, 80
"""Kilobytes of Parquet can hold very many columns and very long names. Nobody reads a line for each."""
_USUAL = {"steps": "num_inference_steps", "cfg": "guidance_scale", "frames": "num_frames", "id": "job_id"}
"""What other programs call a column."""


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    shaped = name.strip().lower().replace("-", "_").replace(" ", "_")
    close = [_USUAL[shaped]] if shaped in _USUAL else difflib.get_close_matches(shaped, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known columns are {', '.join(known)}"


def accepts(kind: ValueKind, stored: pa.DataType) -> bool:
    """Whether a column stored as `stored` can hold values of `kind`."""
    stored = unwrap(stored)
    if types.is_null(stored) or types.is_floating(stored):
        return True
    return bool(_ACCEPTS[kind](stored))


def unwrap(stored: pa.DataType) -> pa.DataType:
    """The type of the values: without dictionary encoding and extension names."""
    if isinstance(stored, pa.BaseExtensionType):
        return unwrap(stored.storage_type)
    if types.is_dictionary(stored):
        return unwrap(stored.value_type)
    return stored


def is_text(stored: pa.DataType) -> bool:
    """Whether the values are strings, however they are stored."""
    stored = unwrap(stored)
    return any(test(stored) for test in (types.is_string, types.is_large_string, types.is_string_view))


def is_list(stored: pa.DataType) -> bool:
    """Whether the values are lists of any layout."""
    return any(test(stored) for test in _LIST_TESTS)


def _is_texts(stored: pa.DataType) -> bool:
    if is_list(stored):
        return is_text(stored.value_type) or types.is_null(stored.value_type)
    return is_text(stored)


def _is_numeric(stored: pa.DataType) -> bool:
    return any(test(stored) for test in (types.is_integer, types.is_floating, types.is_decimal))


def _is_integers(stored: pa.DataType) -> bool:
    return is_list(stored) and (_is_numeric(unwrap(stored.value_type)) or types.is_null(stored.value_type))


def _is_time(stored: pa.DataType) -> bool:
    return types.is_timestamp(stored) or types.is_date(stored) or is_text(stored)


def _is_tags(stored: pa.DataType) -> bool:
    if types.is_map(stored):
        return is_text(stored.key_type) and (is_text(stored.item_type) or types.is_null(stored.item_type))
    return types.is_struct(stored) and all(is_text(field.type) or types.is_null(field.type) for field in stored)


def _is_loras(stored: pa.DataType) -> bool:
    if not is_list(stored):
        return False
    item = stored.value_type
    if types.is_null(item):
        return True
    if not types.is_struct(item) or not {"path"} <= {field.name for field in item} <= {"path", "weight"}:
        return False
    by_name = {field.name: unwrap(field.type) for field in item}
    if len(by_name) < item.num_fields:
        return False
    weight = by_name.get("weight", pa.null())
    return is_text(by_name["path"]) and (_is_numeric(weight) or types.is_null(weight))


def _is_shots(stored: pa.DataType) -> bool:
    if not is_list(stored):
        return False
    item = unwrap(stored.value_type)
    if types.is_null(item):
        return True
    if not types.is_struct(item) or not {"prompt"} <= {field.name for field in item} <= shot_columns().keys():
        return False
    names = [field.name for field in item]
    return len(set(names)) == len(names) and all(accepts(shot_columns()[f.name].kind, f.type) for f in item)


_LIST_TESTS = (
    types.is_list,
    types.is_large_list,
    types.is_fixed_size_list,
    types.is_list_view,
    types.is_large_list_view,
)
_ACCEPTS = {
    ValueKind.TEXT: is_text,
    ValueKind.TEXTS: _is_texts,
    ValueKind.INTEGER: _is_numeric,
    ValueKind.INTEGERS: _is_integers,
    ValueKind.NUMBER: _is_numeric,
    ValueKind.BOOLEAN: types.is_boolean,
    ValueKind.TIMESTAMP: _is_time,
    ValueKind.TAGS: _is_tags,
    ValueKind.LORAS: _is_loras,
    ValueKind.SHOTS: _is_shots,
}


def _pandas_index_columns(schema: pa.Schema) -> set[str]:
    """Names that pandas stored a DataFrame's index under: unnamed levels, and named ones it lists in its metadata."""
    unnamed = {name for name in schema.names if name.startswith("__index_level_") and name.endswith("__")}
    try:
        listed = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return unnamed
    # A RangeIndex is described by an object and takes no column.
    return unnamed | {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else unnamed
