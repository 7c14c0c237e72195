"""The calendar of nightly runs: which night it is, when it must be over, and which ones were missed. Pure.

A night has the date of the day on which it begins, and lasts from `begins` on that day to `begins` on the next, both
by the wall clock of its time zone: a start at 20:00 and one at 03:00 that makes up for it belong to one night. Spans
are counted in UTC, so that the two nights a year with a changed clock are an hour shorter and longer, as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("date", "year", "month", "day")


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """How nights are counted."""

    zone: ZoneInfo
    begins: time = time(12, 0)
    """From then on the new date counts."""
    ends: time | None = None
    """The deadline, as the wall clock shows it; None: there is none."""

    def night_of(self, now: datetime) -> date:
        """The date of the night that `now` (with a time zone) belongs to."""
        local = now.astimezone(self.zone)
        today = local.date()
        return today if local.time().replace(tzinfo=None) >= self.begins else today - timedelta(days=1)

    def deadline_of(self, night: date) -> datetime | None:
        """When the night must be over, in UTC: the first `ends` after it begins."""
        if self.ends is None:
            return None
        day = night if self.ends > self.begins else night + timedelta(days=1)
        return datetime.combine(day, self.ends, self.zone).astimezone(UTC)


def before(night: date, count: int) -> list[date]:
    """The `count` nights before `night`, the latest first."""
    return [night - timedelta(days=days) for days in range(1, count + 1)]


def fill_in(pattern: str, night: date) -> str:
    """`pattern` with `{date}` (2030-01-31), `{year}`, `{month}` and `{day}` filled in. ValueError for other fields, and
    for a brace that is alone."""
    unknown = [name for name in _FIELD.findall(pattern) if name not in _FIELDS]
    if unknown:
        raise ValueError(f"{pattern!r}: {{{unknown[0]}}} is none of {', '.join(f'{{{name}}}' for name in _FIELDS)}")
    if set("{}") & set(_FIELD.sub("", pattern)):
        raise ValueError(f"{pattern!r}: a brace is alone; write {{date}}")
    values = {
        "date": night.isoformat(),
        "year": f"{night.year:04d}",
        "month": f"{night.month:02d}",
        "day": f"{night.day:02d}",
    }
    return _FIELD.sub(lambda match: values[match.group(1)], pattern)


def clock(text: str) -> time:
    """`07:30` as a time of day. ValueError for anything else."""
    match = _CLOCK.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a time of day like 07:30")
    return time(int(match.group(1)), int(match.group(2)))


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name, like `Europe/Berlin`. ValueError for one that is not known here."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone known here, like UTC or Europe/Berlin") from error
