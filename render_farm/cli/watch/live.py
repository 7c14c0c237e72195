"""Live bars on a terminal: one for the run, one for each film that is being rendered."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from render_farm.cli.terminal import duration, printable
from render_farm.cli.watch.log_lines import LogReader, clock_text, log_text
from render_farm.observability.snapshot import RunSnapshot, WorkSnapshot

_STYLES = {"warning": "yellow", "error": "red"}
_FEWEST_BARS = 3


class LiveWatcher:
    """See the module. A context manager: the terminal is restored on leaving, and the last bars stay."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._log = LogReader()
        self._run = _bars()
        self._jobs = _bars()
        self._run_task = self._run.add_task("starting", total=1.0, info="")
        self._tasks: dict[str, TaskID] = {}
        self._clocks: dict[str, _Clock] = {}
        self._note = Text("", style="dim")
        group = Group(self._run, self._jobs, self._note)
        self._live = Live(group, console=self._console, refresh_per_second=8, redirect_stdout=False)

    def __enter__(self) -> LiveWatcher:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note.plain = ""
        self._live.stop()

    def show(self, snapshot: RunSnapshot) -> None:
        """Redraw the bars and print new events above them."""
        for line in self._log.new_lines(snapshot):
            text = f"{clock_text(line.time_s)} {log_text(line)}"
            self._console.print(Text(text, style=_STYLES.get(line.level, "")))
        room = max(self._console.height - 4, _FEWEST_BARS)
        self._show_run(snapshot)
        self._show_work(snapshot.work[:room])
        hidden = len(snapshot.work) - room
        more = f"{hidden} more films are being rendered" if hidden > 0 else ""
        self._note.plain = printable("; ".join(filter(None, [snapshot.note, more])))

    def _show_run(self, snapshot: RunSnapshot) -> None:
        jobs = snapshot.jobs
        parts = [f"{jobs.get('done', 0)}/{snapshot.num_jobs} films"]
        if jobs.get("failed"):
            parts.append(f"{jobs['failed']} failed")
        parts.append(f"segments {snapshot.segments_done}/{snapshot.num_segments}")
        if snapshot.num_workers:
            parts.append(f"workers {snapshot.workers_busy}/{snapshot.num_workers}")
        if snapshot.eta_s is not None and jobs.get("running"):
            parts.append(f"ETA {duration(snapshot.eta_s)}")
        ended = sum(jobs.get(state, 0) for state in ("done", "failed", "cancelled"))
        complete = bool(snapshot.num_jobs) and ended == snapshot.num_jobs
        # Steps of running segments count, so that the bar moves in runs of one long film too.
        begun = sum(work.step / work.num_steps for work in snapshot.work if work.num_steps)
        fraction = (snapshot.segments_done + begun) / snapshot.num_segments if snapshot.num_segments else 0.0
        self._run.update(
            self._run_task,
            description=escape(f"{snapshot.run_id} {snapshot.state}"),
            completed=1.0 if complete else min(fraction, 1.0),
            info="  ".join(parts),
        )

    def _show_work(self, running: tuple[WorkSnapshot, ...]) -> None:
        names = {work.job_id for work in running}
        for gone in [job_id for job_id in self._tasks if job_id not in names]:
            self._jobs.remove_task(self._tasks.pop(gone))
            self._clocks.pop(gone)
        for work in running:
            if work.job_id not in self._tasks:
                self._tasks[work.job_id] = self._jobs.add_task("", total=1.0, info="")
                self._clocks[work.job_id] = _Clock()
            fraction = film_fraction(work)
            left_s = self._clocks[work.job_id].left_s(fraction, self._jobs.get_time())
            self._jobs.update(
                self._tasks[work.job_id],
                description=escape(_cut(work.job_id)),
                completed=fraction,
                info=work_text(work) + (f"  ETA {duration(left_s)}" if left_s is not None else ""),
            )


class _Clock:
    """Time left of one film, by its progress since it was first seen."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left_s(self, fraction: float, now_s: float) -> float | None:
        if self._first is None:
            if fraction > 0:
                self._first = (fraction, now_s)
            return None
        made, spent_s = fraction - self._first[0], now_s - self._first[1]
        return (1 - fraction) * spent_s / made if made > 0.01 and spent_s > 1 else None


def film_fraction(work: WorkSnapshot) -> float:
    """The share of a film's segments that is rendered, the current one by its steps."""
    if not work.num_segments:
        return 0.0
    begun = work.step / work.num_steps if work.num_steps else 0.0
    return min((work.segment + begun) / work.num_segments, 1.0)


def work_text(work: WorkSnapshot) -> str:
    """A film's work now: `segment 2/3  step 5/16`."""
    if work.segment >= work.num_segments and work.num_segments:
        return work.phase or "finishing"
    segment = f"segment {work.segment + 1}/{work.num_segments}"
    if work.num_steps:
        return f"{segment}  step {work.step}/{work.num_steps}"
    return f"{segment}  {work.phase}".rstrip()


def _bars() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(bar_width=32), TextColumn("{task.fields[info]}"))


def _cut(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
