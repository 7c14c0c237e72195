"""Output of verbs: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from enum import IntEnum
from typing import Annotated, Any

import typer

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Terminal control characters, including C1 codes, and those that change the direction of text."""
_PLAIN_DRAWING = str.maketrans("█░·│▁▂▃▄▅▆▇─►", "#=.|_.:-=+*->")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class Verbosity(IntEnum):
    """How much is shown on stderr."""

    QUIET = 0
    """Errors only."""
    NORMAL = 1
    VERBOSE = 2
    """Every segment too."""


verbosity = Verbosity.NORMAL
"""Of this command. `program.py` sets it."""
running_verb = ""
"""The verb as it is typed: `manifest check`. `program.py` sets it."""


def error_line(message: str) -> None:
    """A message for the person, on stderr."""
    _to_stderr(f"render-farm: {printable(message)}")


def hint(message: str) -> None:
    """A hint about the next step, on stderr."""
    if verbosity > Verbosity.QUIET:
        _to_stderr(printable(message))


def say(text: str) -> None:
    """A result, on stdout."""
    print(_drawn(printable(text), getattr(sys.stdout, "encoding", None) or "utf-8"), flush=True)


def _drawn(text: str, encoding: str) -> str:
    """`text` as a terminal of that encoding can show it: drawings in ASCII where it has no blocks and lines."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN_DRAWING)
    return text


def _to_stderr(line: str) -> None:
    """A line on stderr. A closed pipe or a full disk does not end a run."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Foreign text (a message with a row's data, a reason from a user) without terminal control characters."""
    return _CONTROLS.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if found[0] < "\u0100" else ascii(found[0])[1:-1], text
    )


def one_line(text: str) -> str:
    """`printable` text that cannot start a line of its own."""
    return printable(text.replace("\r\n", "\n").replace("\n", "\\n").replace("\t", "\\t"))


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout. Values that JSON lacks (times) become text. Its `schema` names the verb."""
    print(json.dumps(with_schema(value), indent=2, default=str), flush=True)


def with_schema(value: dict[str, Any]) -> dict[str, Any]:
    """The object that a verb prints, with the name and version of its form: `render_farm.manifest_check/1`."""
    return {"schema": f"render_farm.{re.sub('[^a-z]+', '_', running_verb)}/1", **value}


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table with aligned columns; numbers as they are given."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


def plural(count: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """`0:03:12`, and days when there are any."""
    whole = max(round(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    days = f"{hours // 24} d " if hours >= 24 else ""
    return f"{days}{hours % 24}:{minutes:02d}:{rest:02d}"
