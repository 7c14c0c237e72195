"""The options that name the degrees of render groups: a number, or `auto`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_PANEL = "Render groups: several workers for one segment"


def degree(value: Any) -> Any:
    """A number of at least 1, or `auto`."""
    if value == "auto":
        return value
    if not str(value).isascii() or not str(value).isdigit() or int(value) < 1:
        raise typer.BadParameter(f"{value!r} is neither a number of at least 1 nor auto")
    return int(value)


def branches(value: Any) -> Any:
    """1, 2 or `auto`."""
    if str(value) not in ("1", "2", "auto"):
        raise typer.BadParameter(f"{value!r} is not one of 1, 2, auto")
    return degree(value)


Ulysses = Annotated[
    Any,
    typer.Option(
        "--ulysses", metavar="U|auto", parser=degree, help="Workers that share attention heads.", rich_help_panel=_PANEL
    ),
]
Ring = Annotated[
    Any,
    typer.Option(
        "--ring", metavar="R|auto", parser=degree, help="Workers that share tokens in a ring.", rich_help_panel=_PANEL
    ),
]
CfgParallel = Annotated[
    Any,
    typer.Option(
        "--cfg-parallel",
        metavar="1|2|auto",
        parser=branches,
        help="2: both guidance branches at once.",
        rich_help_panel=_PANEL,
    ),
]
