"""A night's run: `jobs/nightly.py` is its entry point for Ray Jobs, cron and systemd.

The run's id is the night's date, and its lease and durable state lie with its films. So however often a scheduler
fires, a night that another cluster or process renders is joined, an interrupted one continues, and a finished one stays
finished.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.program import INTERRUPTED, MOST_COLUMNS, FarmCommand, run_app
from render_farm.cli.rendering.columns import COLUMN_FLAGS
from render_farm.cli.rendering.flags import takes_flags_of
from render_farm.cli.rendering.render import render, request_of, run, summary
from render_farm.cli.terminal import duration, error_line, hint, print_json, say
from render_farm.errors import LeaseHeldError, ManifestError, NotFoundError, UsageError
from render_farm.planning import nights

if TYPE_CHECKING:
    from render_farm.cli.watch.notify import NightHeartbeat
    from render_farm.farm.run.outcome import RunOutcome
    from render_farm.manifest.limits import ManifestLimits

TIMED_OUT = 13
_STOPPED = (12, TIMED_OUT, INTERRUPTED)
"""Exit codes after which no other night is started: somebody, a budget or the deadline ended this one."""
_LOOK_EVERY_S = 15.0

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": MOST_COLUMNS}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Missed(StrEnum):
    """What happens to earlier nights that are not over."""

    SKIP = "skip"
    CATCH_UP = "catch-up"


class AfterDeadline(StrEnum):
    """What happens to a night that is not over at its deadline."""

    STOP = "stop"
    GO_ON = "go-on"


class IfHeld(StrEnum):
    """What to do when another cluster renders the night."""

    WAIT = "wait"
    LEAVE = "leave"


def _own_flags(
    manifest: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Manifest of a night: s3://bucket/manifests/{date}.parquet.")
    ],
    time_zone: Annotated[str, typer.Option("--time-zone", help="Time zone of the clock times and the date.")] = "UTC",
    night_begins: Annotated[
        str,
        typer.Option(
            "--night-begins", metavar="HH:MM", help="Before this time, it is still last night, with its date."
        ),
    ] = "12:00",
    deadline: Annotated[
        str | None, typer.Option("--deadline", metavar="HH:MM", help="When the night must be over.")
    ] = None,
    after_deadline: Annotated[
        AfterDeadline,
        typer.Option("--after-deadline", help="stop: exit with 13, to be continued later. go-on: finish."),
    ] = AfterDeadline.STOP,
    only: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="Render this night only, without missed ones.")
    ] = None,
    missed: Annotated[
        Missed, typer.Option("--missed", help="catch-up: render missed nights after tonight's, the latest first.")
    ] = Missed.SKIP,
    look_back: Annotated[int, typer.Option("--look-back", min=0, help="How many nights back to look.")] = 3,
    if_held: Annotated[
        IfHeld, typer.Option("--if-held", help="When another cluster renders the night: wait for it, or exit with 0.")
    ] = IfHeld.WAIT,
    wait_for_manifest: Annotated[
        float, typer.Option("--wait-for-manifest", metavar="S", min=0, help="How long to wait for the manifest.")
    ] = 0.0,
    again: Annotated[bool, typer.Option("--again", help="Try failed films again in a night that is over.")] = False,
    name: Annotated[str, typer.Option("--name", help="Prefix of run ids, before the date.")] = "nightly",
    check: Annotated[
        bool, typer.Option("--check", help="Render nothing: exit with 1 if the last night is not over by its deadline.")
    ] = False,
) -> None:
    """Flags that `render` lacks or defines differently."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """One night's run."""

    day: date
    run_id: str
    manifest: str
    output: str
    limits: ManifestLimits


@app.command(cls=FarmCommand, context_settings=_HELP)
@takes_flags_of(render, _own_flags, without=("prompt", "run_id", "timeout", *COLUMN_FLAGS))
def nightly(**flags: Any) -> None:
    """Render tonight's manifest. PATTERN and --output may hold {date}, {year}, {month} and {day}.

    Exit codes are those of `render-farm render`: 0 all done, 2 usage or invalid manifest, 10 every job failed, 11 some
    failed, 12 cancelled, 13 past the deadline, 14 no manifest for the night, 130 interrupted. With --check: 0 the last
    night is over, 1 it is not, 14 it has no manifest.
    """
    calendar, now = _calendar(flags), datetime.now(UTC)
    if flags["check"]:
        raise typer.Exit(_check(flags, calendar, now))
    tonight = _night(flags, _given_date(flags["only"]) or calendar.night_of(now))
    deadline = calendar.deadline_of(tonight.day)
    outcomes: list[RunOutcome] = []
    codes: list[int] = []

    def render_night(night: Night, on_start: Callable[[], None] = lambda: None) -> None:
        try:
            outcomes.append(_render(night, flags, deadline, on_start))
            codes.append(outcomes[-1].exit_code)
        except (ManifestError, NotFoundError) as error:  # of this night; the others may be as they should
            error_line(str(error))
            codes.append(error.exit_code)

    with _heartbeat(flags, tonight) as heartbeat:
        render_night(tonight, heartbeat.start)
        if not (outcomes and outcomes[0].state == "running"):  # left to another cluster
            heartbeat.end(codes[0])
    missed = _missed(flags, tonight) if flags["only"] is None and codes[0] not in _STOPPED else []
    for night in missed:
        if flags["missed"] == Missed.SKIP:
            late = "" if deadline is None else " --after-deadline go-on"
            hint(
                f"the night of {night.day} was missed; --date {night.day}{late} renders it, --missed catch-up all such"
            )
        elif codes[-1] not in _STOPPED:
            hint(f"catching up on the night of {night.day}")
            render_night(night)
    code = next((code for code in codes if code), 0)
    if flags["as_json"]:
        print_json({"nights": [asdict(outcome) for outcome in outcomes], "exit_code": code})
    elif outcomes:
        say("\n".join(line for outcome in outcomes for line in summary(outcome)))
    raise typer.Exit(code)


def _calendar(flags: Mapping[str, Any]) -> nights.Calendar:
    try:
        return nights.Calendar(
            zone=nights.zone(flags["time_zone"]),
            begins=nights.clock(flags["night_begins"]),
            ends=None if flags["deadline"] is None else nights.clock(flags["deadline"]),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _given_date(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--date: {text!r} is not a date like 2030-01-31") from error


def _night(flags: Mapping[str, Any], day: date) -> Night:
    from render_farm.farm.run.settings import load_settings
    from render_farm.storage.layout import check_id

    settings = load_settings(file=flags["config"], output=flags["output"])
    output = settings.output
    if not output:
        raise UsageError("--output is missing", advice="give a folder or a URI like s3://bucket/films/{date}")
    try:
        return Night(
            day=day,
            run_id=check_id(f"{flags['name']}-{day.isoformat()}", "--name"),
            manifest=nights.fill_in(flags["manifest"], day),
            output=nights.fill_in(output, day),
            limits=settings.manifest,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _missed(flags: Mapping[str, Any], tonight: Night) -> list[Night]:
    """Earlier nights that have a manifest of their own and are not over, the latest first."""
    earlier = [_night(flags, day) for day in nights.before(tonight.day, flags["look_back"])]
    own = [night for night in earlier if night.manifest != tonight.manifest]
    return [night for night in own if _has_manifest(night) and _over(night) is None]


def _heartbeat(flags: Mapping[str, Any], night: Night) -> NightHeartbeat:
    from render_farm.cli.watch.notify import NightHeartbeat
    from render_farm.farm.run.settings import load_settings

    return NightHeartbeat(load_settings(file=flags["config"]).notify, run_id=night.run_id, output=night.output)


def _check(flags: Mapping[str, Any], calendar: nights.Calendar, now: datetime) -> int:
    """0 if the last night whose deadline has passed is over, else 1. `--date` names another one."""
    from render_farm.storage import open_store
    from render_farm.storage.layout import RunKeys

    day = _given_date(flags["only"]) or calendar.night_of(now)
    deadline = calendar.deadline_of(day)
    if deadline is None:
        raise UsageError("--check needs --deadline", advice="give the one that the night is started with")
    if deadline > now and flags["only"] is None:
        day = nights.before(day, 1)[0]
    elif deadline > now:
        hint(f"the night of {day} has until {deadline}")
        return 0
    night = _night(flags, day)
    _wait_for_manifest(night, 0.0)
    over = _over(night)
    if over is None:
        has_started = open_store(night.output).exists(RunKeys(run_id=night.run_id).manifest)
        unfinished = f"has unfinished films: render-farm status {night.run_id} --output {night.output}"
        error_line(
            f"the night of {day} was not over by its deadline ({calendar.deadline_of(day)}): "
            f"run {night.run_id} {unfinished if has_started else 'never started'}"
        )
    code = int(over is None)
    if flags["as_json"]:
        print_json({"nights": [] if over is None else [asdict(over)], "exit_code": code})
    elif over is not None:
        say("\n".join(summary(over)))
    return code


def _render(
    night: Night, flags: Mapping[str, Any], deadline: datetime | None, on_start: Callable[[], None]
) -> RunOutcome:
    """Render a night, or say how it ended when it is over. `on_start` is called before anything is rendered."""
    _wait_for_manifest(night, flags["wait_for_manifest"])
    over = None if flags["again"] else _over(night)
    if over is not None:
        hint(f"run {night.run_id} is over already; --again retries its failed films")
        return over
    on_start()
    reported = False
    while True:
        left_s = None if deadline is None else (deadline - datetime.now(UTC)).total_seconds()
        stops = flags["after_deadline"] == AfterDeadline.STOP
        if stops and left_s is not None and left_s <= 0:
            hint(f"run {night.run_id}: the deadline ({deadline}) has passed; --after-deadline go-on renders it anyway")
            return _ended(night, "cancelled", TIMED_OUT)
        request = request_of(
            {
                **flags,
                **dict.fromkeys(("prompt", *COLUMN_FLAGS)),
                "manifest": night.manifest,
                "output": night.output,
                "run_id": night.run_id,
                "timeout": left_s if stops else None,
                "deadline": None,
            }
        )
        if left_s is not None and not reported:
            left = (
                f"{duration(left_s)} until the deadline" if left_s > 0 else f"continues after its deadline ({deadline})"
            )
            hint(f"run {night.run_id}: {left}")
        try:
            return run(replace(request, deadline=deadline))
        except LeaseHeldError as error:
            if flags["if_held"] == IfHeld.LEAVE:
                hint(f"{error.message}: nothing to do here")
                return _ended(night, "running", 0)
            if not reported:
                hint(f"{error.message}: waiting until it is over, or gone")
            reported = True
            time.sleep(_LOOK_EVERY_S if left_s is None else min(_LOOK_EVERY_S, max(left_s, 0.1)))
            over = _over(night)
            if over is not None:
                return over


def _ended(night: Night, state: str, code: int) -> RunOutcome:
    from render_farm.farm.run.outcome import RunOutcome

    return RunOutcome(run_id=night.run_id, output=night.output, state=state, jobs={}, exit_code=code)


def _has_manifest(night: Night) -> bool:
    from render_farm.manifest.files import clear_errors, file_system

    fs, path = file_system(night.manifest)
    with clear_errors(night.manifest):
        return bool(fs.exists(path))


def _wait_for_manifest(night: Night, patience_s: float) -> None:
    stop = time.monotonic() + patience_s
    while not _has_manifest(night):
        left_s = stop - time.monotonic()
        if left_s <= 0:
            raise NotFoundError(
                f"there is no manifest for the night of {night.day}: {night.manifest}",
                advice="--wait-for-manifest S waits for it; --date names another night",
            )
        time.sleep(min(_LOOK_EVERY_S, left_s))


def _over(night: Night) -> RunOutcome | None:
    """How a night ended whose films are all done, failed or cancelled by name, of the manifest as it is now; None when
    it is not over."""
    from render_farm.manifest.parts import open_manifest
    from render_farm.report.run_folder import RunFolderReader
    from render_farm.scheduling.states import exit_code, run_state
    from render_farm.storage import open_store
    from render_farm.storage.layout import RunKeys

    store, keys = open_store(night.output), RunKeys(run_id=night.run_id)
    try:
        rendered, folder = store.read_bytes(keys.manifest), RunFolderReader(store, night.run_id).read(with_events=False)
        with open_manifest(night.manifest, night.limits) as file:
            if file.read() != rendered:
                return None
    except (NotFoundError, ManifestError):
        return None
    counts = dict(Counter(str(row["state"]) for row in folder.results))
    stopped = {row["job_id"] for row in folder.results if row["state"] == "cancelled"} - folder.excluded
    if not counts or set(counts) - {"done", "failed", "cancelled"} or stopped:
        return None
    state = str(run_state(counts, stopped=False))
    return replace(_ended(night, state, exit_code(counts, stopped=False)), jobs=counts)


def main() -> None:
    """Entry point. Exits with the contract's codes."""
    run_app(app)


if __name__ == "__main__":
    main()
