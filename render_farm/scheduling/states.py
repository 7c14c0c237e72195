"""The states of a job and of a run, and the moves between them that exist."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """What `results.parquet` and `status` say of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class RunState(StrEnum):
    """The state of a run as a whole."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (RunState.DONE, RunState.FAILED, RunState.CANCELLED)


MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.RUNNING, JobState.DONE, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.WAITING, JobState.DONE, JobState.FAILED, JobState.CANCELLED}),
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset({JobState.WAITING}),
    JobState.CANCELLED: frozenset({JobState.WAITING}),
}
"""waiting -> running when its first work is handed out; running -> waiting when that work is taken back; failed or
cancelled -> waiting when somebody asks to retry it."""


def exit_code(counts: dict[str, int]) -> int:
    """The exit code of a run whose jobs all ended, by the contract: 0, 10 (every job failed), 11 (some), 12."""
    failed, done = counts.get(JobState.FAILED, 0), counts.get(JobState.DONE, 0)
    cancelled = counts.get(JobState.CANCELLED, 0)
    if failed:
        return 11 if done or cancelled else 10
    return 12 if cancelled else 0


def run_state(counts: dict[str, int]) -> RunState:
    """The state of a run whose jobs all ended."""
    if counts.get(JobState.FAILED):
        return RunState.FAILED
    return RunState.CANCELLED if counts.get(JobState.CANCELLED) else RunState.DONE
