"""`render-farm runs`, and how a run is named: `RUN` is a run's URI (OUTPUT/_runs/ID), or its id with --output or
$RENDER_FARM_OUTPUT."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from render_farm.cli.terminal import Json, hint, print_json, say, table
from render_farm.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from render_farm.storage import Store

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's URI, or its id with --output.")]
RunOrNewest = Annotated[str | None, typer.Argument(metavar="RUN", help="Default: the newest run of --output.")]
Jobs = Annotated[list[str] | None, typer.Argument(metavar="JOB...", help="Jobs of the run.")]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="URI", help="Where the run's films are. Default: $RENDER_FARM_OUTPUT."),
]


Wait = Annotated[
    float, typer.Option("--wait", metavar="S", min=0, help="How long to wait for a run that is not there yet.")
]
WAIT_S = 120.0
"""A job that was submitted makes its run's folder when Ray has started it."""
_LOOK_EVERY_S = 2.0
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """A run and the output tree it is in."""

    store: Store
    run_id: str


def runs(
    output: Output = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="How many to show.")] = 20,
    as_json: Json = False,
) -> None:
    """List the runs of an output, the newest first."""
    from dataclasses import asdict

    from render_farm.report.listed_runs import list_runs

    store = open_output(output)
    found, total = list_runs(store, limit, now_s=time.time())
    if as_json:
        print_json({"output": store.root_uri, "num_runs": total, "runs": [asdict(run) for run in found]})
        return
    if not found:
        hint(f"nothing has been rendered in {store.root_uri} yet")
        return
    rows = [
        [run.run_id, run.state, f"{run.jobs.get('done', 0)}/{run.num_jobs}", run.started_at or "?", run.manifest or ""]
        for run in found
    ]
    say("\n".join(table(["run", "state", "done", "started", "manifest"], rows)))
    if total > len(found):
        hint(f"{total - len(found):,} older ones are not shown (--limit)")


def open_output(output: str | None) -> Store:
    """The output tree that a verb looks at. UsageError when none is named."""
    from render_farm.farm.run.settings import load_settings
    from render_farm.storage import open_store

    root = load_settings(output=output).output
    if not root:
        raise UsageError("--output is missing", advice="give a folder or a URI, or set RENDER_FARM_OUTPUT")
    return open_store(root)


def find_run(run: str | None, output: str | None, *, wait_s: float = 0.0) -> RunPlace:
    """The run that `run` names, the newest when it is None. UsageError when it cannot be a run's name, NotFoundError
    when there is none of it, also after `wait_s` seconds."""
    from render_farm.farm.run.settings import load_settings
    from render_farm.report.run_folder import run_documents
    from render_farm.storage import open_store
    from render_farm.storage.layout import RUNS, RunKeys, check_id

    if run is None:
        store = open_output(output)
        newest = next(iter(run_documents(store)), None)
        if newest is None:
            raise NotFoundError(f"there is no run in {store.root_uri}", advice="check --output")
        return RunPlace(store=store, run_id=str(newest["run_id"]))
    root, _, run_id = run.rstrip("/").rpartition(f"/{RUNS}/")
    if not root:
        found = load_settings(output=output).output
        if not found:
            raise UsageError(
                f"where is run {run!r}? --output is missing",
                advice=f"give --output, set RENDER_FARM_OUTPUT, or write OUTPUT/{RUNS}/{run}",
            )
        root, run_id = found, run
    try:
        check_id(run_id, "run id")
    except ValueError as error:
        raise UsageError(str(error)) from error
    store, key = open_store(root), RunKeys(run_id=run_id).run
    stop, reported = time.monotonic() + wait_s, False
    while not store.exists(key):
        if time.monotonic() >= stop:
            known = [str(document["run_id"]) for document in run_documents(store)[:_NAMED]]
            advice = f"the newest there: {', '.join(known)}" if known else "nothing has been rendered there yet"
            raise NotFoundError(
                f"there is no run {run_id!r} in {store.root_uri}",
                advice=f"{advice}; a job that was just submitted needs a minute, `ray job logs` says how it goes",
            )
        if not reported:
            hint(f"there is no run {run_id!r} in {store.root_uri} yet: waiting up to {wait_s:g} s for it to start")
            reported = True
        time.sleep(_LOOK_EVERY_S)
    return RunPlace(store=store, run_id=run_id)
