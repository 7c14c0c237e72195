"""A run's log as lines for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from render_farm.cli import terminal
from render_farm.cli.terminal import Verbosity, printable
from render_farm.errors import UsageError
from render_farm.observability.events import LogLine
from render_farm.observability.snapshot import RunSnapshot


class LogReader:
    """Picks the log lines of a snapshot that earlier ones did not have, without those of level `debug`, unless `-v` is
    given."""

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


def since_time(text: str, now_s: float) -> float:
    """`--since` as Unix time: a length of time before `now_s` (`90s 10m 2h 1d`), or a UTC time (`06:00`, the last one;
    `2030-01-31T06:00`). UsageError for anything else."""
    length = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if length:
        return now_s - float(length[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[length[2]]
    now = datetime.fromtimestamp(now_s, UTC)
    try:
        if re.fullmatch("[0-9]{1,2}:[0-9]{2}", text):
            today = now.replace(hour=int(text.split(":")[0]), minute=int(text.split(":")[1]), second=0, microsecond=0)
            return (today if today <= now else today - timedelta(days=1)).timestamp()
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text!r}: is neither like 10m nor a UTC time like 2030-01-31T06:00") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def clock_text(time_s: float) -> str:
    """A time of day in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%H:%M:%SZ")
