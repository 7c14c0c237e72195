"""`pause resume cancel retry priority explain hosts`: steer a run from any shell that can write its output."""

from __future__ import annotations

import getpass
import re
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.runs import Jobs, Output, Run, find_run
from render_farm.cli.terminal import Json, hint, print_json, say
from render_farm.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from render_farm.storage.mailbox import Request

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Reason = Annotated[str, typer.Option("--reason", help="The reason, stored with the run.")]
_NEEDS_SOMEBODY = ("resume", "retry", "priority")
"""Requests that change nothing until somebody renders the run."""
hosts_app = typer.Typer(no_args_is_help=True, help="Machines that a run renders on.")


def pause(run: Run, output: Output = None, as_json: Json = False) -> None:
    """Start no more segments. Those being rendered are completed. The run stays paused until `resume`."""
    _ask(run, output, as_json, verb="pause")


def resume(run: Run, output: Output = None, as_json: Json = False) -> None:
    """End a pause. It does not start a run that nobody renders: `continue` does."""
    _ask(run, output, as_json, verb="resume")


def cancel(
    run: Run, jobs: Jobs = None, reason: Reason = "", output: Output = None, yes: Yes = False, as_json: Json = False
) -> None:
    """Stop a run, or some of its jobs, at their next steps. What is stored stays.

    Cancelled jobs stay cancelled until `retry`, even when the run is started again. A run that was cancelled as a whole
    continues when it is started again.
    """
    what = f"{len(jobs)} of its jobs" if jobs else "all of it"
    confirm(f"Cancel {what} in run {run}?", yes)
    _ask(run, output, as_json, verb="cancel", jobs=tuple(jobs or ()), reason=reason)


def retry(
    run: Run,
    jobs: Jobs = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every job that failed.")] = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Put failed or cancelled jobs back into the queue."""
    if bool(jobs) == failed:
        raise UsageError("give the JOBs to retry, or --failed for all that failed")
    _ask(run, output, as_json, verb="retry", jobs=tuple(jobs or ()))


def priority(
    run: Run,
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB... N", help="Jobs of the run, then their priority: 0 to 100, higher goes first."),
    ] = None,
    to: Annotated[int | None, typer.Option("--to", metavar="N", min=0, max=100, help="The priority, too.")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Change the priority of jobs from their next segment on. Without names, of all unfinished jobs."""
    named = list(jobs or ())
    if to is None:
        last = named.pop() if named else ""
        if not re.fullmatch("[0-9]{1,3}", last) or int(last) > 100:
            given = f"{last!r} is not a priority" if last else "which priority?"
            raise UsageError(given, advice="a number from 0 to 100 comes last: render-farm priority RUN JOB 90")
        to = int(last)
    _ask(run, output, as_json, verb="priority", jobs=tuple(named), value=str(to))


def explain(run: Run, jobs: Jobs = None, output: Output = None, as_json: Json = False) -> None:
    """Explain why jobs wait or failed, and what they need. Without a JOB, explain all that wait and all that failed."""
    _ask(run, output, as_json, verb="explain", jobs=tuple(jobs or ()))


@hosts_app.command("list")
def list_hosts(run: Run, output: Output = None, as_json: Json = False) -> None:
    """List the machines on which the run has had workers, and which of them are quarantined."""
    _ask(run, output, as_json, verb="hosts")


@hosts_app.command("quarantine")
def quarantine(run: Run, host: str, reason: Reason = "", output: Output = None, as_json: Json = False) -> None:
    """Give a machine no more work. What it renders now is completed."""
    _ask(run, output, as_json, verb="quarantine", value=host, reason=reason)


@hosts_app.command("release")
def release(run: Run, host: str, output: Output = None, as_json: Json = False) -> None:
    """Give a quarantined machine work again."""
    _ask(run, output, as_json, verb="release", value=host)


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere --yes is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to answer on", advice="give --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(12)


def _ask(run: str, output: str | None, as_json: bool, **request: Any) -> None:
    from render_farm.farm.control.client import ask
    from render_farm.farm.control.verbs import continue_command

    place = find_run(run, output)
    outcome = ask(place.store, place.run_id, _request(**request))
    # `explain` says it in its answer.
    idle = outcome.answer.ok and not outcome.live and request["verb"] in _NEEDS_SOMEBODY
    is_left = outcome.answer.data.get("jobs_left", outcome.answer.data.get("jobs"))
    again = continue_command(place.run_id, place.store.root_uri) if idle and is_left else None
    if as_json:
        print_json(
            {
                "run_id": place.run_id,
                "verb": request["verb"],
                "ok": outcome.answer.ok,
                "applied": "live" if outcome.live else "stored",
                "message": outcome.answer.text,
                **({"continue": again} if again else {}),
                **outcome.answer.data,
            }
        )
    elif outcome.answer.ok:
        say(outcome.answer.text)
        if outcome.is_kept:
            hint(f"no coordinator holds run {place.run_id}; the request is stored for its next start")
        if again:
            say(f"to render what is left: {again}")
    if not outcome.answer.ok:
        raise (NotFoundError if outcome.answer.not_found else UsageError)(outcome.answer.text)


def _request(*, verb: str, **values: Any) -> Request:
    from render_farm.storage.layout import check_id
    from render_farm.storage.mailbox import Request, Verb

    for job in values.get("jobs", ()):
        try:
            check_id(job)
        except ValueError as error:
            raise UsageError(str(error)) from error
    return Request(verb=Verb(verb), by=f"{_user()}@{socket.gethostname()}", **values)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "somebody"
