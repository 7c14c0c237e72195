"""`Record`: one job as a text file gives it, before its values are checked; and how text becomes values."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from render_farm.errors import ManifestError, Problem
from render_farm.job import EXACT_FLOAT, BadCell, ValueKind, columns, shot_columns, shown
from render_farm.manifest.files import open_binary
from render_farm.manifest.limits import LIMITS, ManifestLimits, raising
from render_farm.uris import shown_uri

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_YES_NO = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One job of a text file. `values` are column name to value; `problems` are of the record as a whole."""

    number: int
    values: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    place: str = "line"


@dataclass(frozen=True, slots=True)
class Written:
    """A number, yes or no, or time as a document spells it, unquoted: parsers change some (`010`, `12:30`, `1e400`)."""

    text: str
    is_time: bool = False
    """Whether it is a date, which can only be meant as it is spelt."""

    def __repr__(self) -> str:
        return self.text


@contextmanager
def open_text(uri: str, limits: ManifestLimits = LIMITS, limit: str = "max_bytes") -> Iterator[io.TextIOWrapper]:
    """The UTF-8 text at `uri`, with or without a byte order mark, of no more bytes than one of `limits` allows. Raises
    `ManifestError`."""
    most_bytes: int = getattr(limits, limit)
    with open_binary(uri) as handle:
        if (num_bytes := handle.seek(0, os.SEEK_END)) > most_bytes:
            raise ManifestError(
                f"{shown_uri(uri)}: has {num_bytes:,} bytes; the most is {most_bytes:,}",
                advice=f"split it, {raising(limit)}",
            )
        handle.seek(0)
        start = handle.read(2)
        handle.seek(0)
        if start in _UTF16:
            raise ManifestError(f"{shown_uri(uri)}: is UTF-16 text", advice="save it as UTF-8")
        text = io.TextIOWrapper(handle, encoding="utf-8-sig", newline="")
        try:
            yield text
        except UnicodeDecodeError as error:
            raise ManifestError(
                f"{shown_uri(uri)}: is not UTF-8 text (byte 0x{error.object[error.start]:02x})",
                advice="save it as UTF-8",
            ) from error
        finally:
            text.detach()


def lines_of(uri: str, text: io.TextIOWrapper, limits: ManifestLimits) -> Iterator[tuple[int, str]]:
    """Each line of `text` with its number. Raises `ManifestError` for one that is longer than a document may be."""
    most = limits.max_document_bytes
    for number, line in enumerate(iter(lambda: text.readline(most + 1), ""), start=1):
        if len(line) > most:
            raise ManifestError(
                f"{shown_uri(uri)}: line {number} has more than {most:,} characters",
                advice=f"break it up, {raising('max_document_bytes')}",
            )
        yield number, line


def from_cell(cell: str, kind: ValueKind) -> Any:
    """The value of a CSV cell. An empty one is null; what cannot be read is a `BadCell`."""
    if kind is ValueKind.TEXT:
        return cell or None
    stripped = cell.strip()
    if not stripped:
        return None
    return _CELL_READERS[kind](stripped)


def _texts(cell: str) -> Any:
    """A prompt, or a JSON list of prompts. A prompt may itself start with a bracket: `[close-up] a cat`."""
    if not cell.startswith("["):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError) as error:
        if re.match(r'\[\s*"', cell):
            return BadCell(f"looks like a JSON list of prompts but is not one: {error}")
        return cell
    return value


def _number(cell: str) -> Any:
    """Any spelling of a number, for a column of any numbers."""
    if _WHOLE.fullmatch(cell):
        return int(cell)
    try:
        value = float(cell) if "_" not in cell else None
    except ValueError:
        value = None
    if value is None:
        return BadCell(f"{shown(cell)} is not a number")
    if math.isinf(value) and "inf" not in cell.lower():
        return BadCell(f"{shown(cell)} is far out of range")
    if value == 0 and re.search("[1-9]", re.split("[eE]", cell)[0]):
        return BadCell(f"{shown(cell)} is too close to 0 for a number of 64 bits")
    return value


def _integer(cell: str) -> Any:
    """A whole number. A fraction or an exponent makes it a float to whatever program wrote it, exact to 2**53."""
    value = _number(cell)
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    try:
        exact = Decimal(cell)
    except InvalidOperation:
        return BadCell(f"{shown(cell)} is not a number")
    if exact != exact.to_integral_value():
        return BadCell(f"{_short(cell)} is not a whole number")
    if abs(exact) >= EXACT_FLOAT:
        return BadCell(
            f"{_short(cell)} is written as a float of 2**53 or more, which is not exact; "
            "write it without a fraction or exponent"
        )
    return int(exact)


def _boolean(cell: str) -> Any:
    return _YES_NO.get(cell.lower(), BadCell(f"{shown(cell)} is not true or false"))


def _json_of(kind: ValueKind, shape: str) -> Any:
    def read(cell: str) -> Any:
        try:
            return _of_kind(kind, parse_json(cell))
        except RepeatedKeyError as error:
            return BadCell(str(error))
        except (ValueError, RecursionError):
            return BadCell(f"{shown(cell)} is not JSON like {shape}")

    return read


def parse_json(text: str) -> Any:
    """A JSON document. Numbers are `Written` where Python would change or refuse them."""
    return json.loads(text, object_pairs_hook=unique_pairs, parse_float=Written, parse_int=_json_integer)


def _json_integer(text: str) -> int | Written:
    """Python refuses to convert a number of thousands of digits, with words about Python."""
    return int(text) if len(text) <= _MOST_DIGITS else Written(text)


_MOST_DIGITS = 4_000


class RepeatedKeyError(ValueError):
    """A key that an object has twice; the parser would keep the last one silently."""


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`."""
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise RepeatedKeyError(f"{repeated!r:.80} appears twice")
    return values


_CELL_READERS = {
    ValueKind.TEXTS: _texts,
    ValueKind.INTEGER: _integer,
    ValueKind.INTEGERS: _json_of(ValueKind.INTEGERS, "[1000, 750, 500, 250]"),
    ValueKind.NUMBER: _number,
    ValueKind.BOOLEAN: _boolean,
    ValueKind.TIMESTAMP: lambda cell: cell,
    ValueKind.TAGS: _json_of(ValueKind.TAGS, '{"scene": "12"}'),
    ValueKind.LORAS: _json_of(ValueKind.LORAS, '[{"path": "style.safetensors", "weight": 0.8}]'),
    ValueKind.SHOTS: _json_of(ValueKind.SHOTS, '[{"prompt": "a cat"}, {"prompt": "a dog", "cut": true}]'),
}
_SCALARS = (ValueKind.INTEGER, ValueKind.NUMBER, ValueKind.BOOLEAN, ValueKind.TIMESTAMP)


def from_document(name: str, value: Any) -> Any:
    """A value of a JSON or YAML document for column `name`: what was written, where the parser guessed otherwise."""
    return _of_kind(columns()[name].kind, value)


def _of_kind(kind: ValueKind, value: Any) -> Any:
    if isinstance(value, Written) and kind in _SCALARS:
        return _CELL_READERS[kind](value.text)
    if kind is ValueKind.LORAS and isinstance(value, list):
        return [_lora(item) if isinstance(item, dict) else _text(item) for item in value]
    if kind is ValueKind.SHOTS and isinstance(value, list):
        return [_shot(item) if isinstance(item, dict) else _as_written(item) for item in value]
    if kind is ValueKind.TAGS and isinstance(value, dict):
        tags = {key: _text(item) for key, item in value.items()}
        return next((BadCell(f"{key}: {tag.message}") for key, tag in tags.items() if isinstance(tag, BadCell)), tags)
    if kind is ValueKind.INTEGERS and isinstance(value, list):
        numbers = [_integer(item.text) if isinstance(item, Written) else item for item in value]
        return next((number for number in numbers if isinstance(number, BadCell)), numbers)
    if kind is ValueKind.TEXTS and isinstance(value, list):
        texts = [_text(item) for item in value]
        return next((text for text in texts if isinstance(text, BadCell)), texts)
    if kind in (ValueKind.TEXT, ValueKind.TEXTS):
        return _text(value)
    return value if kind in _SCALARS else _as_written(value)


def _as_written(value: Any) -> Any:
    """What the column's reader refuses, with what would work."""
    return value.text if isinstance(value, Written) else value


def _lora(item: dict[Any, Any]) -> Any:
    weight = item.get("weight")
    given = {**item, "weight": _number(weight.text)} if isinstance(weight, Written) else dict(item)
    if isinstance(given.get("weight"), BadCell):
        return given["weight"].message
    path = _text(item.get("path"))
    return {**given, "path": path} if "path" in item and not isinstance(path, BadCell) else given


def _shot(item: dict[Any, Any]) -> dict[Any, Any]:
    """A shot, with a `BadCell` for each field that cannot be read. Unknown fields stay, to be refused."""
    fields = shot_columns()
    return {name: _of_kind(fields[name].kind, given) if name in fields else None for name, given in item.items()}


def _text(value: Any) -> Any:
    if isinstance(value, Written):
        return value.text if value.is_time else BadCell(f"{_short(value.text)} is not text; put it in quotes")
    if isinstance(value, bool):
        return BadCell(f"{json.dumps(value)} is not text; put it in quotes")
    if isinstance(value, int | float) and value == value:
        return BadCell(f"{shown(value)} is not text; put it in quotes")
    return value


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
