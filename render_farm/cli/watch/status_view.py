"""A run's status in the width of a terminal: its progress, the work of every worker, and problems."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from render_farm.cli.terminal import duration, plural, printable
from render_farm.report.status import RunStatus

_STYLES = {"done": "green", "running": "cyan", "failed": "red", "cancelled": "yellow", "paused": "yellow"}
_FEWEST_WORKERS = 3


def status_view(now: RunStatus, remarks: list[str], *, height: int) -> Group:
    """`now` for a terminal of `height` lines; `remarks` are the lines about hindrances, failures and deadlines.
    Workers that do not fit are counted instead of listed."""
    above, below = _head(now), [_remark(line) for line in remarks]
    room = max(_FEWEST_WORKERS, height - len(above) - len(below) - 5)
    return _spaced(above, _workers(now, room), below)


def show_status(now: RunStatus, remarks: list[str]) -> None:
    """Print the status once, on stdout. Only the terminal wraps remarks, so that commands in them can be copied."""
    console = Console(highlight=False)
    console.print(_spaced(_head(now), _workers(now, len(now.workers)), []))
    if remarks:
        console.print()
    for line in remarks:
        console.print(_remark(line), soft_wrap=True)


def _spaced(*groups: Sequence[RenderableType]) -> Group:
    shown = [Group(*group) for group in groups if group]
    return Group(*shown[:1], *(Padding(group, (1, 0, 0, 0)) for group in shown[1:]))


def _head(now: RunStatus) -> list[RenderableType]:
    state = "paused" if now.paused and not now.is_over else now.state
    parts: list[RenderableType] = [
        Text.assemble((now.run_id, "bold"), "  ", (state, f"bold {_STYLES.get(state, '')}")),
        _films(now),
    ]
    if now.num_segments:
        parts.append(_progress(now))
    if rates := _rates(now):
        parts.append(Text("   ".join(rates), style="dim"))
    return parts


def _films(now: RunStatus) -> Text:
    text = Text(f"{now.jobs.get('done', 0):,} of {plural(now.num_jobs, 'film')} done")
    for name in ("running", "waiting", "failed", "cancelled"):
        if now.jobs.get(name):
            text.append(", ").append(f"{now.jobs[name]:,} {name}", style=_STYLES[name] if name == "failed" else "")
    return text


def _progress(now: RunStatus) -> Table:
    """The bar counts segments, and the running ones by their steps."""
    share = min(1.0, (now.segments_done + sum(work.fraction for work in now.workers)) / now.num_segments)
    row = Table.grid(padding=(0, 2))
    row.add_column(ratio=1)
    for _ in range(3):
        row.add_column(no_wrap=True)
    bar = ProgressBar(total=1.0, completed=share, complete_style="green" if now.is_over else "cyan")
    left = f"ETA {duration(now.eta_s)}" if now.eta_s is not None and not now.is_over else ""
    row.add_row(bar, f"{share:.0%}", f"segments {now.segments_done:,}/{now.num_segments:,}", left)
    row.expand = True
    return row


def _rates(now: RunStatus) -> list[str]:
    if now.is_over:
        return []
    rates = []
    if now.num_workers is not None:
        noun = "GPU" if now.device == "cuda" else "worker"
        rates.append(f"{plural(now.num_workers, noun)}, {now.workers_busy} busy")
    if now.steps_per_s:
        rates.append(f"{now.steps_per_s:g} steps/s")
    if now.segments_per_h:
        rates.append(f"{now.segments_per_h:g} segments/h")
    return rates


def _workers(now: RunStatus, room: int) -> list[RenderableType]:
    if not now.workers:
        return []
    shown = now.workers if len(now.workers) <= room else now.workers[: room - 1]
    rows = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    rows.add_column("worker", no_wrap=True)
    rows.add_column("film", overflow="ellipsis", min_width=8)
    rows.add_column("does", no_wrap=True)
    rows.add_column("for", justify="right", no_wrap=True)
    for work in shown:
        group = f" +{len(work.helpers)}" if work.helpers else ""
        doing = Text(work.doing)
        if work.attempt > 1:
            doing.append(f", attempt {work.attempt}", style="yellow")
        rows.add_row(work.worker + group, Text(work.job_id), doing, duration(work.since_s))
    hidden = len(now.workers) - len(shown)
    return [rows, *([Text(f"... and {hidden} more", style="dim")] if hidden else [])]


def _remark(line: str) -> Text:
    text = printable(line.removeprefix("  "))
    if " failed: " in text:
        return Text(text, style="red")
    is_warning = text.strip().startswith(("paused", "host ", "missed", "at risk", "nothing was heard"))
    return Text(text, style="yellow" if is_warning else "")
