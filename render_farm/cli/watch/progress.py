"""A run on stderr: live bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from render_farm.cli import terminal
from render_farm.cli.terminal import Verbosity, duration, printable
from render_farm.cli.watch.live import LiveWatcher
from render_farm.cli.watch.log_lines import LogReader, clock_text, log_text
from render_farm.observability.snapshot import RunSnapshot

LINE_EVERY_S = 30.0


class Watcher(Protocol):
    """Shows snapshots of a run as they come."""

    def show(self, snapshot: RunSnapshot) -> None:
        """Show the run as it is now."""


@contextmanager
def watching() -> Iterator[Watcher]:
    """The watcher that suits stderr, for as long as the run goes."""
    if terminal.verbosity is Verbosity.QUIET:
        yield _SilentFor()
    elif sys.stderr.isatty():
        with LiveWatcher() as watcher:
            yield watcher
    else:
        yield LineWatcher(sys.stderr)


class _SilentFor:
    """Shows nothing."""

    def show(self, snapshot: RunSnapshot) -> None:
        """Nothing."""


class LineWatcher:
    """Plain lines: the events of the run's log, and its progress when its state changes and every half minute."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._log = LogReader()
        self._state = ""
        self._progress: tuple[object, ...] = ()
        self._reported_s = 0.0
        self._note = ""

    def show(self, snapshot: RunSnapshot) -> None:
        """Print what is new in `snapshot`."""
        for line in self._log.new_lines(snapshot):
            self._print(line.time_s, log_text(line))
        if snapshot.note and snapshot.note != self._note:
            self._print(time.time(), f"{snapshot.run_id}: {snapshot.note}")
        self._note = snapshot.note
        now = self._clock()
        progress = (snapshot.segments_done, snapshot.eta_s)
        if snapshot.state != self._state or (now - self._reported_s >= LINE_EVERY_S and progress != self._progress):
            self._print(time.time(), run_text(snapshot))
            self._state, self._progress, self._reported_s = snapshot.state, progress, now

    def _print(self, time_s: float, text: str) -> None:
        with contextlib.suppress(OSError):  # who reads stderr may leave: the run goes on
            print(printable(f"{clock_text(time_s)} {text}"), file=self._stream, flush=True)


def run_text(snapshot: RunSnapshot) -> str:
    """A run in one line: `demo-1a2b3c4d: running, 1 of 4 done, segments 3/7, ETA 0:02:10`."""
    jobs = snapshot.jobs
    parts = [snapshot.state, f"{jobs.get('done', 0)} of {snapshot.num_jobs} done"]
    parts += [f"{jobs[state]} {state}" for state in ("running", "failed", "cancelled") if jobs.get(state)]
    if snapshot.num_segments:
        parts.append(f"segments {snapshot.segments_done}/{snapshot.num_segments}")
    if snapshot.steps_per_s:
        parts.append(f"{snapshot.steps_per_s:.1f} steps/s")
    if snapshot.eta_s is not None and jobs.get("running"):
        parts.append(f"ETA {duration(snapshot.eta_s)}")
    return f"{snapshot.run_id}: {', '.join(parts)}"
