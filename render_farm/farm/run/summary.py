"""How a run stands, in a few numbers, from the coordinator's book of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from render_farm.farm.run.progress import RunProgress


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run at one moment."""

    jobs: Mapping[str, int]
    """By state."""
    segments_waiting: int
    segments_running: int
    segments_done: int
    num_late: int
    """Films past their deadline that have not ended."""
    eta_s: float | None
    slack_s: float | None
    """From the ETA to the last deadline of the films that have not ended; negative when the run will be late. None
    without deadlines, or before there is a pace."""


def standing(record: RunProgress, now_unix_s: float) -> RunSummary:
    """The run of `record` now, from its sums."""
    eta_s, deadlines = record.eta_s, record.deadlines
    return RunSummary(
        jobs=record.counts,
        segments_waiting=record.segments_left - record.num_rendering,
        segments_running=record.num_rendering,
        segments_done=record.segments_done,
        num_late=sum(number for deadline_s, number in deadlines.items() if deadline_s < now_unix_s),
        eta_s=eta_s,
        slack_s=max(deadlines) - now_unix_s - eta_s if deadlines and eta_s is not None else None,
    )
