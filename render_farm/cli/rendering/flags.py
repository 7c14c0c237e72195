"""Verbs that take the flags of another one, and command lines made of flags."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from typer.models import ArgumentInfo

_Verb = TypeVar("_Verb", bound=Callable[..., None])


def arguments_of(command: Callable[..., None], values: Mapping[str, Any]) -> list[str]:
    """The command line of a verb whose parameters have these values; defaults are left out."""
    positional: list[str] = []
    arguments: list[str] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        value = values[name]
        if value == parameter.default:
            continue
        value = value.value if isinstance(value, Enum) else value
        info = parameter.annotation.__metadata__[0]
        if isinstance(info, ArgumentInfo):
            positional.append(str(value))
            continue
        # In `Annotated`, typer keeps the first name where a default would stand.
        flag = next(text for text in (info.default, *(info.param_decls or ())) if str(text).startswith("--"))
        if isinstance(value, bool):
            arguments.append(flag.partition("/")[0 if value else 2])
            continue
        several = value if isinstance(value, list | tuple) else [value]
        arguments += [f"{flag}={one}" for one in several]
    return [*positional, *arguments]


def takes_flags_of(*commands: Callable[..., None], without: tuple[str, ...] = ()) -> Callable[[_Verb], _Verb]:
    """Give a verb written with `**flags` the parameters of others, so that none can differ. The last one of a name
    counts."""

    def give(verb: _Verb) -> _Verb:
        every = {
            name: parameter
            for command in commands
            for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        }
        parameters = [parameter for name, parameter in every.items() if name not in without]
        verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return verb

    return give
