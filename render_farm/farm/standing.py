"""How a run stands, in a few numbers, from the coordinator's book of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from render_farm.farm.run_record import RunRecord
from render_farm.scheduling.states import JobState

_ENDED = frozenset(state for state in JobState if state.ended)


@dataclass(frozen=True, kw_only=True)
class Standing:
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


def standing(record: RunRecord, now_unix_s: float) -> Standing:
    """The run of `record` now. Looks at each of its films."""
    waiting = running = done = num_late = 0
    last_deadline_s: float | None = None
    for film in record.films.values():
        done += film.segments_done
        if film.result.state in _ENDED:
            continue
        is_rendering = film.phase == "denoise"
        running += is_rendering
        waiting += film.entry.task.plan.num_segments - film.segments_done - is_rendering
        deadline_s = film.entry.deadline_s
        if deadline_s is not None:
            num_late += deadline_s < now_unix_s
            last_deadline_s = max(deadline_s, last_deadline_s or deadline_s)
    eta_s = record.eta_s
    return Standing(
        jobs=record.counts,
        segments_waiting=waiting,
        segments_running=running,
        segments_done=done,
        num_late=num_late,
        eta_s=eta_s,
        slack_s=None if last_deadline_s is None or eta_s is None else last_deadline_s - now_unix_s - eta_s,
    )
