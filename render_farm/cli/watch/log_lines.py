"""A run's log as lines for people."""

from __future__ import annotations

from datetime import UTC, datetime

from render_farm.cli import terminal
from render_farm.cli.terminal import Verbosity, printable
from render_farm.observability.events import LogLine
from render_farm.observability.snapshot import RunSnapshot


class LogReader:
    """Picks the log lines of a snapshot that earlier ones did not have, without those of level `debug` unless `-v` is given."""

    def __init__(self) -> None:
        self._last = (0.0, 0)

    def new_lines(self, snapshot: RunSnapshot) -> list[LogLine]:
        """The lines not yet seen. A coordinator that was restarted numbers its lines from 1 again."""
        lines = [line for line in snapshot.log if (line.time_s, line.number) > self._last]
        if lines:
            self._last = (lines[-1].time_s, lines[-1].number)
        return [line for line in lines if line.level != "debug" or terminal.verbosity is Verbosity.VERBOSE]


def log_text(line: LogLine) -> str:
    """An event in one line, with its level unless that is `info`."""
    level = "" if line.level == "info" else f"{line.level}: "
    return printable(f"{level}{line.job_id + ': ' if line.job_id else ''}{line.message}")


def clock_text(time_s: float) -> str:
    """A time of day in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%H:%M:%SZ")
