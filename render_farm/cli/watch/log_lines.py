"""A run's log as lines for people."""

from __future__ import annotations

from datetime import UTC, datetime

from render_farm.cli.terminal import printable
from render_farm.farm.run.snapshot import LogLine, RunSnapshot


class LogReader:
    """Picks the log lines of a picture that were not in the ones before; what only its authors want is left out."""

    def __init__(self) -> None:
        self._last = 0

    def new_lines(self, snapshot: RunSnapshot) -> list[LogLine]:
        """The lines not yet seen."""
        lines = [line for line in snapshot.log if line.number > self._last]
        if lines:
            self._last = lines[-1].number
        return [line for line in lines if line.level != "debug"]


def log_text(line: LogLine) -> str:
    """An event in one line, with its level when it is not the usual one."""
    level = "" if line.level == "info" else f"{line.level}: "
    return printable(f"{level}{line.job_id + ': ' if line.job_id else ''}{line.message}")


def clock_text(time_s: float) -> str:
    """A time of day in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%H:%M:%SZ")
