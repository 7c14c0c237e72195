"""A flag of `render --prompt` for every column of a manifest, made from what `job.py` says of it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from render_farm.cli.rendering.prompt_inputs import input_columns, input_flags
from render_farm.errors import UsageError
from render_farm.job import Column, ValueKind, columns
from render_farm.number_text import read_number

_PANEL = "The one film of --prompt"
_OTHERWISE = ("prompt", "deadline", "ulysses", "ring", "cfg_parallel")
"""Columns for which `render` has flags that serve manifests too."""
_SHORT = {"num_inference_steps": "--steps", "loras": "--lora"}
_TYPES: dict[ValueKind, tuple[Any, str]] = {
    ValueKind.TEXT: (str, "TEXT"),
    ValueKind.INTEGER: (int, "N"),
    ValueKind.NUMBER: (float, "X"),
    ValueKind.BOOLEAN: (bool, ""),
    ValueKind.TAGS: (list[str], "NAME=VALUE"),
    ValueKind.LORAS: (list[str], "URI[=WEIGHT]"),
}
_ANY = (str, "JSON")
"""Of other kinds."""
COLUMN_FLAGS = tuple(name for name in columns() if name not in _OTHERWISE)


def _whole(text: str) -> int:
    """As `int`, which also takes 1_0 for 10."""
    try:
        return int("" if "_" in text else text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number; write digits alone") from None


def _number(text: str) -> float:
    try:
        return read_number(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number; write one such as 0.8") from None


_PARSERS: dict[Any, Any] = {int: _whole, float: _number}


def flags_of_columns(**columns_of_job: Any) -> None:
    """A verb with the flags of all columns, for `takes_flags_of`."""


def _parameter(name: str, column: Column) -> inspect.Parameter:
    kind, metavar = _TYPES.get(column.kind, _ANY)
    flag = f"--{name.replace('_', '-')}"
    names = [*([_SHORT[name]] if name in _SHORT else []), flag]
    if kind is bool:
        names = [f"{flag}/--no-{flag.removeprefix('--')}"]
    choices = f" ({', '.join(map(str, column.choices))})" if column.choices else ""
    repeatable = "; repeatable" if kind == list[str] else ""
    option = typer.Option(
        *names,
        metavar=metavar or None,
        parser=_PARSERS.get(kind),
        rich_help_panel=_PANEL,
        help=f"{column.doc[0].upper()}{column.doc[1:]}{choices}{repeatable}.",
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[kind | None, option]
    )


flags_of_columns.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_parameter(name, columns()[name]) for name in COLUMN_FLAGS]
)


def columns_of_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that flags name, by column. UsageError for a flag that cannot be read."""
    given = {name: flags[name] for name in COLUMN_FLAGS if flags.get(name) not in (None, [])}
    for name, value in given.items():
        kind = columns()[name].kind
        if kind is ValueKind.TAGS:
            given[name] = _tags(value)
        elif kind is ValueKind.SHOTS:
            given[name] = _shots(value)
    return given | input_columns(given)


def flags_again(given: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as the flags that name them, for a command that is run elsewhere. Relative inputs are absolute in it."""
    flags = {name: value if columns()[name].kind in _TYPES else json.dumps(value) for name, value in given.items()}
    if "tags" in flags:
        flags["tags"] = [f"{name}={value}" for name, value in given["tags"].items()]
    return flags | input_flags(given)


def _tags(texts: list[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for name, value in map(_tag, texts):
        if name in tags:
            raise UsageError(f"--tags: {name!r} is given twice", advice="give each name once")
        tags[name] = value
    return tags


def _tag(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"--tags {text!r}: is not NAME=VALUE")
    return name, value


def _shots(text: str) -> Any:
    from render_farm.job import normalise
    from render_farm.manifest.sources.records import from_cell

    shots = from_cell(text, ValueKind.SHOTS)
    problems = normalise({"shots": "" if shots is None else shots})[1]  # whoever gives the flag means shots
    if problems:
        raise UsageError(f"--{problems[0]}")
    return shots
