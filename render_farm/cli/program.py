"""How every verb runs: one message for each error, the exit codes of the contract, and help in sections."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import select
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from render_farm.cli import terminal
from render_farm.cli.examples import EXAMPLES
from render_farm.cli.terminal import Verbosity, error_line, hint
from render_farm.errors import RenderFarmError, TimeLimitError, UsageError
from render_farm.extras import missing_package

INTERRUPTED = 130
_LEAVES_WITHIN_S = 5.0
MOST_COLUMNS = 200
"""Help is as wide as the terminal, up to this."""
_READING = {
    *("status", "runs", "watch", "logs", "explain", "preview", "report", "check", "plan", "simulate", "doctor"),
    *("manifest check", "manifest show", "models list", "models info", "hosts list", "config show", "verify"),
}
"""Verbs that write no output, so that `-o json` can only mean the format."""
_VERBOSITY = {
    "-v": Verbosity.VERBOSE,
    "--verbose": Verbosity.VERBOSE,
    "-q": Verbosity.QUIET,
    "--quiet": Verbosity.QUIET,
}


class FarmCommand(TyperCommand):
    """One verb."""

    def invoke(self, ctx: Any) -> Any:
        terminal.running_verb = _path(ctx)
        with _plain_errors(ctx) if ctx.parent is None else contextlib.nullcontext():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.parent is None:
            args = _without_verbosity(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_example(ctx, formatter)


class FarmGroup(TyperGroup):
    """The verbs, or those of one noun."""

    def invoke(self, ctx: Any) -> Any:
        with _plain_errors(ctx) if ctx.parent is None else contextlib.nullcontext():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.parent is None and not ctx.resilient_parsing:
            args = _json_for_output(_without_verbosity(args))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        room = formatter.width - 6 - max(map(len, commands), default=0)
        for name, command in commands.items():
            if command is not None and not command.hidden:
                title = getattr(command, "rich_help_panel", None)
                title = title if isinstance(title, str) else "Commands"
                sections.setdefault(title, []).append((name, command.get_short_help_str(room)))
        _write_sections(sections, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_example(ctx, formatter)


def _path(ctx: Any) -> str:
    """A verb as it is typed, without the program: `manifest check`."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(names) or str(ctx.command.name)


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None)
            sections.setdefault(title if isinstance(title, str) else usual, []).append(record)
    _write_sections(sections, formatter)


def _write_sections(sections: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def _write_example(ctx: Any, formatter: Any) -> None:
    """Unwrapped, so that it can be copied."""
    example = EXAMPLES.get(_path(ctx))
    if example:
        with formatter.section("Example"):
            for line in example:
                formatter.write(f"  {line}\n")


def _without_verbosity(args: Sequence[str]) -> list[str]:
    """The command line without `-v` and `-q`, which may stand anywhere in it."""
    kept: list[str] = []
    terminal.verbosity = Verbosity.NORMAL
    for number, text in enumerate(args):
        if text == "--":
            kept += args[number:]
            break
        if text in _VERBOSITY:
            terminal.verbosity = _VERBOSITY[text]
        else:
            kept.append(text)
    return kept


def _json_for_output(args: list[str]) -> list[str]:
    """`-o json` of a verb that only reads means `--json`, as in kubectl, unless there is such a folder."""
    verb = [text for text in args if not text.startswith("-")][:2]
    if not verb or not ({verb[0], " ".join(verb)} & _READING) or Path("json").exists():
        return args
    for number, text in enumerate(args):
        pair = args[number : number + 2]
        if pair in (["-o", "json"], ["--output", "json"]) or text in ("-ojson", "-o=json", "--output=json"):
            hint("-o names the output folder. It was read as --json here")
            return [*args[:number], "--json", *args[number + (2 if text in ("-o", "--output") else 1) :]]
    return args


@contextlib.contextmanager
def _plain_errors(ctx: Any) -> Iterator[None]:
    """Turns the farm's errors into one message on stderr and their exit code. Usage errors exit with 2 anyway."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what cannot be written is noticed here and not at the interpreter's end
    except RenderFarmError as error:
        if ctx.params.get("debug"):
            traceback.print_exc()
        error_line(str(error))
        raise typer.Exit(error.exit_code) from None
    except ModuleNotFoundError as error:
        package, advice = missing_package(error)
        if not package:
            raise
        if ctx.params.get("debug"):
            traceback.print_exc()
        error_line(f"this command needs the package {package}, which is not installed ({advice})")
        raise typer.Exit(UsageError.exit_code) from None
    except KeyboardInterrupt:
        error_line("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        if not _nobody_reads_stdout():
            raise
        _drop_stdout()
        raise typer.Exit(0) from None
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        error_line(f"the results cannot be written to stdout: {error.strerror} (free space, or write elsewhere)")
        _drop_stdout()
        raise typer.Exit(2) from None


def _nobody_reads_stdout() -> bool:
    """Whether stdout is a pipe whose reader left, as `head` does. Other pipes break for other reasons."""
    look = select.poll()
    look.register(1, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in look.poll(0))


def _drop_stdout() -> None:
    """Discard what is still in the buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def run_app(app: typer.Typer) -> None:
    """Run a program. Exits with the contract's codes; 1 is an error nobody expected."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if logging.lastResort is not None:  # of warnings of the farm, which may hold a manifest's text
        logging.lastResort.setFormatter(_PrintableFormatter())
    try:
        app()
    except SystemExit as ended:
        if ended.code in (INTERRUPTED, TimeLimitError.exit_code):
            _leave(ended.code)
        raise
    # The only place that catches everything: whatever comes here is a defect, and its user needs a sentence.
    except Exception as error:
        if "--debug" in sys.argv[1:2]:
            raise
        error_line(f"internal error: {type(error).__name__}: {error}\nthe traceback is in {_save_traceback()}")
        sys.exit(1)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return terminal.printable(super().format(record))


def _leave(exit_code: int) -> NoReturn:
    """End this process as it is. Python would wait for threads of libraries, such as the hub's, which may be in the
    middle of a large download. And those of a Ray that was interrupted while it started can crash as Python ends."""
    alarm = threading.Timer(_LEAVES_WITHIN_S, os._exit, [exit_code])
    alarm.daemon = True
    alarm.start()
    atexit._run_exitfuncs()  # Ray's ends its processes
    with contextlib.suppress(OSError, ValueError):  # who reads them may have left
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)


def _open_standard_streams() -> None:
    """A shell or a service may have closed them (`>&-`). Python has None there then, and the next file or socket that
    is opened gets their number, so that what a library prints would be written into it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _save_traceback() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="render-farm-", suffix=".log", delete=False) as file:
        file.write(traceback.format_exc())
        return file.name
