"""`Record`: one job as a text file gives it, before its values are checked; and how text becomes values."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from render_farm.errors import ManifestError, Problem
from render_farm.job import ValueKind, columns
from render_farm.manifest.cells import BadCell
from render_farm.manifest.files import open_binary
from render_farm.uris import shown_uri

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One job of a text file. `values` are column name to value; `problems` are of the record as a whole."""

    number: int
    values: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    place: str = "line"


@contextmanager
def open_text(uri: str) -> Iterator[io.TextIOWrapper]:
    """The UTF-8 text at `uri`, with or without a byte order mark. Raises `ManifestError`."""
    with open_binary(uri) as handle:
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
            return BadCell(f"looks like a JSON list of prompts but is none: {error}")
        return cell
    return value


def _number(cell: str) -> Any:
    if _WHOLE.fullmatch(cell):
        return int(cell)
    try:
        return float(cell) if "_" not in cell else BadCell(f"{cell!r} is not a number")
    except ValueError:
        return BadCell(f"{_short(cell)} is not a number")


def _boolean(cell: str) -> Any:
    return _YES_NO.get(cell.lower(), BadCell(f"{_short(cell)} is not true or false"))


def _json_of(shape: str) -> Any:
    def read(cell: str) -> Any:
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return BadCell(f"{_short(cell)} is not JSON like {shape}")

    return read


_CELL_READERS = {
    ValueKind.TEXTS: _texts,
    ValueKind.INTEGER: _number,
    ValueKind.INTEGERS: _json_of("[1000, 750, 500, 250]"),
    ValueKind.NUMBER: _number,
    ValueKind.BOOLEAN: _boolean,
    ValueKind.TIMESTAMP: lambda cell: cell,
    ValueKind.TAGS: _json_of('{"scene": "12"}'),
    ValueKind.LORAS: _json_of('[{"path": "style.safetensors", "weight": 0.8}]'),
}


def from_document(name: str, value: Any) -> Any:
    """A value of a JSON or YAML document for column `name`: what was written, where the parser guessed otherwise."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if columns()[name].kind is ValueKind.TEXT and isinstance(value, bool | int | float) and value == value:
        return BadCell(f"{_short(value)} is not text; put it in quotes")
    return value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
