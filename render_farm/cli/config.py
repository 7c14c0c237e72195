"""`render-farm config`: the settings in force, the file that they are read from, and a new one to start with."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from render_farm.cli.terminal import Json, hint, print_json, say
from render_farm.config import Entry, load, settings_file, tables, user_file
from render_farm.config import entries as entries_of
from render_farm.errors import NotFoundError, UsageError

app = typer.Typer(no_args_is_help=True, help="Show the settings, or write a settings file to start with.")
Config = Annotated[str | None, typer.Option("--config", help="Settings file. Default: $RENDER_FARM_CONFIG.")]


@app.command("show")
def show(config: Config = None, as_json: Json = False) -> None:
    """Print the settings in force, as TOML, and where each comes from. Secrets are left out."""
    from render_farm.farm.run.settings import Settings

    file, loaded = settings_file(config), load(Settings, file=config)
    rows = []
    for entry in entries_of(Settings).values():
        value = loaded.settings
        for part in entry.name.split("."):
            value = getattr(value, part)
        rows.append((entry, value, loaded.origins.get(entry.name, "default")))
    if as_json:
        settings = {
            entry.name: {
                "value": None if entry.hides(value) else value,
                "from": origin,
                "hidden": _hidden(entry, value),
            }
            for entry, value, origin in rows
        }
        print_json({"schema": "render_farm.config/1", "file": file, "settings": settings})
        return
    say(f"# settings file: {file or 'none'}")
    table = ""
    for entry, value, origin in rows:
        if (start := entry.name.rpartition(".")[0]) != table:
            say(f"\n[{start}]")
            table = start
        name = entry.name.rpartition(".")[2]
        if value is None:
            say(f"# {name} is not set")
        elif _hidden(entry, value):
            say(f"# {name} is set and not shown  # {origin}")
        else:
            say(f"{name} = {toml(value)}  # {origin}")


def _hidden(entry: Entry, value: Any) -> bool:
    return value is not None and entry.hides(value)


@app.command("path")
def path(config: Config = None) -> None:
    """Print the settings file that is read: --config, else $RENDER_FARM_CONFIG, else the user's."""
    file = settings_file(config)
    if file is None:
        raise NotFoundError(
            "no settings file is read", advice=f"`render-farm config init` writes {user_file(os.environ) or 'one'}"
        )
    say(file)


@app.command("init")
def init(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Default: the user's settings file.")] = None,
) -> None:
    """Write a settings file in which every setting is explained and commented out. Never overwrites one."""
    place = Path(file) if file else user_file(os.environ)
    if place is None:
        raise UsageError("where should the settings file be? $HOME is not set", advice="give a FILE")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Passwords may be written into it: others may not read it.
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write(template())
    except FileExistsError as error:
        raise UsageError(f"{place} exists and is not overwritten", advice="edit it, or name another FILE") from error
    except OSError as error:
        raise UsageError(f"{place}: {error.strerror}", advice="name another FILE") from error
    say(str(place))
    if str(place) != settings_file():
        hint(f"to use it: --config {place}, or RENDER_FARM_CONFIG={place}")


def template() -> str:
    """A settings file with every setting, commented out, under its meaning, range and default."""
    from render_farm.farm.run.settings import Settings

    lines = [
        "# Settings of render_farm. Remove the # in front of a setting to change it.",
        "# RENDER_FARM_* variables and flags win over this file.",
        "# `render-farm config show` prints the settings in force.",
    ]
    entries = entries_of(Settings).values()
    for table in tables(Settings):
        lines += ["", f"[{table}]"] if table else []
        for entry in (entry for entry in entries if entry.name.rpartition(".")[0] == table):
            lines += ["", *_comments(entry)]
            default = "" if entry.default is None else toml(entry.default)
            lines.append(f"#{entry.name.rpartition('.')[2]} = {default}".rstrip())
    return "\n".join([*lines, ""])


def _comments(entry: Entry) -> Iterator[str]:
    unit = f" Unit: {entry.about.unit}." if entry.about.unit else ""
    unset = " Not set by default." if entry.default is None else ""
    allowed = entry.allowed
    text = f"{entry.about.doc} Value: {allowed}.{unit}{unset}"
    yield from textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ")


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    if not isinstance(value, str):
        return repr(value)
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in quoted) + '"'
