"""`render-farm`: the command line. Verbs are in the files beside this one, a file a group."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from render_farm import __version__
from render_farm.cli import (
    bench,
    config,
    control,
    demo,
    gc,
    manifest,
    models,
    preview,
    render,
    report,
    simulate,
    submit,
    verify,
)
from render_farm.cli.doctor import doctor
from render_farm.cli.plan import plan
from render_farm.cli.terminal import error_line
from render_farm.cli.watch import status
from render_farm.errors import RenderFarmError, UsageError
from render_farm.extras import missing_package

INTERRUPTED = 130


@contextlib.contextmanager
def _plain_errors(ctx: Any) -> Iterator[None]:
    """Turns the farm's errors into one message on stderr and their exit code. Usage errors exit with 2 anyway."""
    try:
        yield
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


class FarmGroup(TyperGroup):
    """The verbs."""

    def invoke(self, ctx: Any) -> Any:
        with _plain_errors(ctx):
            return super().invoke(ctx)


class FarmCommand(TyperCommand):
    """A program of one verb."""

    def invoke(self, ctx: Any) -> Any:
        with _plain_errors(ctx):
            return super().invoke(ctx)


app = typer.Typer(
    name="render-farm",
    cls=FarmGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Render long SkyReels-V2 videos from a Parquet manifest. Start with: render-farm demo",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"render-farm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options before the verb."""


app.command("render")(render.render)
app.command("submit")(submit.submit)
app.command("pause")(control.pause)
app.command("resume")(control.resume)
app.command("cancel")(control.cancel)
app.command("retry")(control.retry)
app.command("priority")(control.priority)
app.command("explain")(control.explain)
app.add_typer(control.hosts_app, name="hosts")
app.command("gc")(gc.gc)
app.command("plan")(plan.plan)
app.command("simulate")(simulate.simulate)
app.command("status")(status.status)
app.command("watch")(status.watch)
app.command("logs")(status.logs)
app.command("preview")(preview.preview)
app.command("report")(report.report)
app.command("serve")(report.serve)
app.add_typer(manifest.app, name="manifest")
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")
app.add_typer(bench.app, name="bench")
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """Run a program. Exits with the contract's codes; 1 is an error nobody expected."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    # The only place that catches everything: whatever comes here is a defect, and its user needs a sentence.
    except Exception as error:
        if "--debug" in sys.argv[1:2]:
            raise
        error_line(f"internal error: {type(error).__name__}: {error}\nthe traceback is in {_save_traceback()}")
        sys.exit(1)


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


if __name__ == "__main__":
    main()
