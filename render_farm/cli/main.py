"""`render-farm`: the command line. Verbs are in the files next to this one, one file per group."""

from __future__ import annotations

from typing import Annotated

import typer

from render_farm import __version__
from render_farm.cli import (
    bench,
    check,
    config,
    control,
    gc,
    manifest,
    models,
    pick,
    preview,
    report,
    runs,
    simulate,
    verify,
)
from render_farm.cli.doctor import doctor
from render_farm.cli.plan import plan
from render_farm.cli.program import MOST_COLUMNS, FarmCommand, FarmGroup, run_app
from render_farm.cli.rendering import continue_run, demo, nightly, render, submit
from render_farm.cli.watch import status

_RENDER, _LOOK, _STEER = "Render", "Look at runs", "Steer runs"
_PLAN, _MACHINE = "Plan", "Models and machines"

app = typer.Typer(
    name="render-farm",
    cls=FarmGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MOST_COLUMNS},
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
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show every segment that starts and ends. Works with every verb.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Show results and errors only. Works with every verb.")
    ] = False,
) -> None:
    """Options before the verb."""


def _add(section: str, **verbs: object) -> None:
    for name, verb in verbs.items():
        if isinstance(verb, typer.Typer):
            for command in verb.registered_commands:
                command.cls = FarmCommand
            app.add_typer(verb, name=name, cls=FarmGroup, rich_help_panel=section)
        else:
            app.command(name.rstrip("_"), cls=FarmCommand, rich_help_panel=section)(verb)  # type: ignore[type-var]


_add(_RENDER, render=render.render, submit=submit.submit, continue_=continue_run.continue_run)
_add(_RENDER, pick=pick.pick)
_add(_RENDER, nightly=nightly.nightly, demo=demo.demo)
_add(_LOOK, runs=runs.runs, status=status.status, watch=status.watch, logs=status.logs)
_add(_LOOK, explain=control.explain, preview=preview.preview, report=report.report)
_add(_LOOK, serve=report.serve, check=check.check)
_add(_STEER, pause=control.pause, resume=control.resume, cancel=control.cancel, retry=control.retry)
_add(_STEER, priority=control.priority, hosts=control.hosts_app, gc=gc.gc)
_add(_PLAN, manifest=manifest.app, plan=plan.plan, simulate=simulate.simulate)
_add(_MACHINE, config=config.app, models=models.app, bench=bench.app, verify=verify.verify, doctor=doctor.doctor)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
