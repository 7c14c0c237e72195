"""`render-farm status`, `watch` and `logs`: a run by its folder, from any machine that reads the output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.runs import WAIT_S, Jobs, Output, Run, RunOrNewest, Wait, find_run
from render_farm.cli.terminal import Json, duration, hint, plural, print_json, printable, say, with_schema
from render_farm.cli.watch.log_lines import clock_text, log_text, since_time
from render_farm.errors import NotFoundError

if TYPE_CHECKING:
    from render_farm.observability.events import LogLine
    from render_farm.report.status import RunStatus

_QUIET_S = 300.0
_WORKERS_SHOWN = 30
_NAMED = 5
_POLL_S = 2.0


def status(run: RunOrNewest = None, output: Output = None, as_json: Json = False) -> None:
    """Show the status of a run, or of the newest one: jobs, segments, ETA, what every worker does, failures and
    deadlines."""
    now = _reader(run, output)()
    _show(now, as_json=as_json)


def watch(
    run: RunOrNewest = None,
    output: Output = None,
    every: Annotated[float, typer.Option("--every", metavar="S", min=0.2, help="Seconds between updates.")] = _POLL_S,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Follow a run until it is over. Ctrl-C leaves it running. Exits with the run's exit code."""
    from render_farm.scheduling.states import exit_code

    read = _reader(run, output, wait_s=wait)
    try:
        last = _watch_terminal(read, every) if sys.stderr.isatty() and not as_json else _watch_lines(read, every)
    except KeyboardInterrupt:
        hint("the run continues without you")
        raise typer.Exit(0) from None
    _show(last, as_json=as_json)
    raise typer.Exit(exit_code(last.jobs, stopped=last.state == "cancelled"))


def _show(now: RunStatus, *, as_json: bool) -> None:
    """In the width of a terminal. Elsewhere one line per fact."""
    if as_json:
        print_json(asdict(now))
    elif sys.stdout.isatty():
        from render_farm.cli.watch.status_view import show_status

        show_status(now, _remarks(now))
    else:
        say("\n".join(status_lines(now)))


def logs(
    run: Run,
    jobs: Jobs = None,
    output: Output = None,
    everything: Annotated[bool, typer.Option("--all", help="Include the start and end of every segment.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last N events.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="Only later ones: 90s, 10m, 2h, 1d, or a UTC time.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the run is over.")] = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="S", min=0, help="With --follow: how long to wait for a run to start.")
    ] = WAIT_S,
    as_json: Json = False,
) -> None:
    """Print the events of a run, or of some of its jobs, in order of time, one per line. They are stored in the run's
    folder, so they outlive the cluster. A running run adds to them every 20 s, and at once when something fails. With
    --json and --follow each event is a JSON line.
    """
    from render_farm.report.run_folder import RunFolderReader

    since_s = None if since is None else since_time(since, time.time())
    found = find_run(run, output, wait_s=wait if follow else 0.0)
    reader, read = RunFolderReader(found.store, found.run_id), _reader(run, output)
    wanted = set(jobs or ())

    def fits(line: LogLine) -> bool:
        is_late = since_s is None or line.time_s >= since_s
        return is_late and (everything or line.level != "debug") and (not wanted or line.job_id in wanted)

    folder = reader.read()
    known = {str(row.get("job_id")) for row in folder.jobs} | {row["job_id"] for row in folder.results}
    unknown = sorted(wanted - known)
    if unknown:
        raise NotFoundError(f"run {found.run_id} has no job {unknown[0]!r}")
    shown = [line for line in folder.events if fits(line)]
    shown = shown if tail is None else shown[len(shown) - min(tail, len(shown)) :]
    results = [_result(row) for row in folder.results if row["job_id"] in wanted]
    if as_json and not follow:
        print_json({"run_id": found.run_id, "events": [asdict(line) for line in shown], "jobs": results})
        return
    show = _print_json_lines if as_json else _print_lines
    seen = len(folder.events)
    show(shown)
    if not as_json:
        # A row that was refused before it was rendered has no events, but it has a result.
        quiet = wanted - {line.job_id for line in shown}
        for row in results:
            if row["job_id"] in quiet:
                say(f"{row['job_id']}: {row['state']}" + (f": {row['message']}" if row["message"] else ""))
    while follow:
        is_over = read().is_over
        events = reader.events()
        show([line for line in events[seen:] if fits(line)])
        seen = len(events)
        if is_over:
            return
        time.sleep(_POLL_S)


def _result(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in ("job_id", "state", "error_class", "message")}


def _reader(run: str | None, output: str | None, *, wait_s: float = 0.0) -> Callable[[], RunStatus]:
    """A function that reads the run's status."""
    from render_farm.report.run_folder import RunFolderReader
    from render_farm.report.status import run_status

    found = find_run(run, output, wait_s=wait_s)
    reader = RunFolderReader(found.store, found.run_id)
    return lambda: run_status(reader.read(), now_s=time.time(), root_uri=found.store.root_uri)


def _print_lines(lines: list[LogLine]) -> None:
    for line in lines:
        worker = f" [{line.worker}]" if line.worker else ""
        segment = f" segment {line.segment + 1}" if line.segment is not None else ""
        again = f" attempt {line.attempt}" if line.attempt > 1 else ""
        say(f"{_day(line.time_s)} {clock_text(line.time_s)}{worker}{segment}{again} {log_text(line)}")


def _print_json_lines(lines: list[LogLine]) -> None:
    for line in lines:
        say(json.dumps(with_schema(asdict(line)), default=str))


def _day(time_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time_s))


def _watch_lines(read: Callable[[], RunStatus], every_s: float) -> RunStatus:
    """A line on stderr after every change."""
    reported: tuple[object, ...] = ()
    while True:
        now = read()
        progress = (now.state, now.paused, tuple(now.jobs.items()), now.segments_done)
        if progress != reported:
            print(printable(f"{clock_text(time.time())} {status_lines(now)[0]}"), file=sys.stderr, flush=True)
            reported = progress
        if now.is_over:
            return now
        time.sleep(every_s)


def _watch_terminal(read: Callable[[], RunStatus], every_s: float) -> RunStatus:
    from rich.console import Console
    from rich.live import Live

    from render_farm.cli.watch.status_view import status_view

    console = Console(stderr=True, highlight=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            now = read()
            live.update(status_view(now, _remarks(now), height=console.height), refresh=True)
            if now.is_over:
                return now
            time.sleep(every_s)


def status_lines(now: RunStatus) -> list[str]:
    """A run's status for a person."""
    parts = [f"{now.jobs.get('done', 0)} of {plural(now.num_jobs, 'film')} done"]
    others = ("running", "waiting", "failed", "cancelled")
    parts += [f"{now.jobs[state]:,} {state}" for state in others if now.jobs.get(state)]
    if now.num_segments:
        parts.append(f"segments {now.segments_done:,}/{now.num_segments:,}")
    if not now.is_over:
        if now.steps_per_s:
            parts.append(f"{now.steps_per_s:g} steps/s")
        if now.segments_per_h:
            parts.append(f"{now.segments_per_h:g} segments/h")
        if now.num_workers is not None:
            noun = "GPU" if now.device == "cuda" else "worker"
            parts.append(f"{plural(now.num_workers, noun)}, {now.workers_busy} busy")
        if now.eta_s is not None:
            parts.append(f"ETA {duration(now.eta_s)}")
    state = "paused" if now.paused and not now.is_over else now.state
    hindrances = _hindrances(now)
    return [f"{now.run_id}: {state}, {', '.join(parts)}", *hindrances, *_work(now), *_remarks(now)[len(hindrances) :]]


def _remarks(now: RunStatus) -> list[str]:
    """All lines but those on progress and work."""
    return [
        *_hindrances(now),
        *_failures(now),
        *_deadlines(now),
        *([f"  in Ray's dashboard: {now.ray_dashboard}"] if now.ray_dashboard and not now.is_over else []),
    ]


def _hindrances(now: RunStatus) -> list[str]:
    """What keeps the run waiting, and what to do."""
    lines = []
    if now.paused and not now.is_over:
        lines.append(f"  paused: `render-farm resume {now.run_id} --output {now.output}` continues it")
    elif now.note and not now.is_over:
        lines.append(f"  {now.note}")
    for host, reason in now.quarantined.items():
        lines.append(f"  host {host} is quarantined: {reason}")
        lines.append(f"    render-farm hosts release {now.run_id} {host} --output {now.output}")
    if not now.is_over and not now.is_live and now.last_event_s is not None and now.last_event_s > _QUIET_S:
        quiet = duration(now.last_event_s)
        again = f"render-farm continue {now.run_id} --output {now.output}"
        lines.append(f"  nothing was heard of it for {quiet}; if nobody renders it any more: {again}")
    return lines


def _work(now: RunStatus) -> list[str]:
    lines = []
    for work in now.workers[:_WORKERS_SHOWN]:
        again = f", attempt {work.attempt}" if work.attempt > 1 else ""
        group = f" with {', '.join(work.helpers)}" if work.helpers else ""
        lines.append(f"  {work.worker}{group}  {work.job_id}  {work.doing}{again}  for {duration(work.since_s)}")
    if len(now.workers) > _WORKERS_SHOWN:
        lines.append(f"  ... and {len(now.workers) - _WORKERS_SHOWN} more")
    return lines


def _failures(now: RunStatus) -> list[str]:
    lines = []
    for group in now.failures:
        lines.append(f"  {plural(group['num_jobs'], 'film')} failed: {group['error_class']}: {group['message']}")
        lines += [f"    {text}" for text in (group["advice"], group["retry"]) if text]
    return lines


def _deadlines(now: RunStatus) -> list[str]:
    deadlines, lines = now.deadlines, []
    if not deadlines.num_jobs:
        return []
    parts = [f"{deadlines.kept} of {deadlines.num_jobs} kept"]
    if deadlines.next_s is not None and not now.is_over:
        parts.append(f"the next in {duration(deadlines.next_s)}")
    lines.append(f"  deadlines: {', '.join(parts)}")
    for what, names in (("missed", deadlines.missed), ("at risk", deadlines.at_risk)):
        if names:
            more = "" if len(names) <= _NAMED else f" and {len(names) - _NAMED} more"
            lines.append(f"    {what}: {', '.join(names[:_NAMED])}{more}")
    return lines
