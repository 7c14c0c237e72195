"""Commands that documentation, schedules and cluster files tell people and machines to run, and whether they parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from render_farm.cli.main import app
from render_farm.cli.rendering.nightly import app as nightly_app

ROOT = Path(__file__).parents[2]
_CODE_BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(render-farm [^`\n]+)`")
_PROGRAM = re.compile(
    r"(?:(?:^|[;&|(`]|-- |exec \w+ |\b[A-Z_]+=\S+ )\s*(?P<verb>render-farm)"
    r"|(?P<module>-m render_farm\.cli(?P<night>\.nightly)?)|(?P<file>jobs/nightly\.py))(?= |$)"
)
_END = {"|", "||", "&&", ";", "&", ">", ">>", "<", "\\"}


def commands_of(path: Path) -> list[str]:
    """Every command line of ours in a file: of Markdown the code blocks and `inline` ones, of YAML the entry points."""
    text = path.read_text()
    if path.suffix in (".yaml", ".yml"):
        lines = [value for document in yaml.safe_load_all(text) for value in _texts(document)]
    elif path.suffix == ".md":
        lines = [line for block in _CODE_BLOCK.findall(text) for line in _lines(block)] + _INLINE.findall(text)
    else:
        lines = _lines(text)
    return [command for line in lines if not line.lstrip().startswith("#") for command in _in_line(line)]


def _in_line(line: str) -> Iterator[str]:
    match = _PROGRAM.search(line)
    if match and "..." not in line:
        start = next(match.start(name) for name in ("verb", "module", "file") if match[name])
        yield line[start:].partition("`")[0] if line[:start].endswith("`") else line[start:]


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield from _lines(node)
    elif isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        if node and all(isinstance(item, str) for item in node):
            yield shlex.join(node)
        for value in node:
            yield from _texts(value)


def _lines(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def parse(line: str) -> str:
    """Why a command line cannot work; empty when it can, as far as verbs, flags and kinds of values go."""
    match = _PROGRAM.match(line)
    assert match is not None
    words = shlex.split(line[match.end() :], comments=True)
    arguments = []
    for word in words:
        if word == "$@":  # what the caller adds
            continue
        if word in _END or re.match(r"\d?>", word):
            break
        arguments.append(word.rstrip(";)"))
        if word.endswith(";"):
            break
    command: Any = typer.main.get_command(nightly_app if match["night"] or match["file"] else app)
    try:
        while hasattr(command, "commands"):
            name = arguments.pop(0) if arguments else "--help"
            if name.startswith("-"):
                return ""
            if name not in command.commands:
                return f"{line}: there is no verb {name!r}"
            command = command.commands[name]
        if arguments:  # without, it is the verb's name in a sentence
            command.make_context(command.name, arguments)
    except typer.Exit:
        return ""
    except Exception as error:  # noqa: BLE001 - whatever the parser raises is what the person would see
        return f"{line}: {getattr(error, 'message', error)}"
    return ""
