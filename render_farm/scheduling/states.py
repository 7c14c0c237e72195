"""The states of a job and of a run, and the moves between them that exist."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a job or of a run, as `results.parquet` and `status` show it."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (State.DONE, State.FAILED, State.CANCELLED)


MOVES: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.RUNNING, State.DONE, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.WAITING, State.DONE, State.FAILED, State.CANCELLED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset({State.WAITING}),
    State.CANCELLED: frozenset({State.WAITING}),
}
"""waiting -> running when its first work is handed out; running -> waiting when that work is taken back; failed or
cancelled -> waiting when somebody asks to retry it."""


def exit_code(counts: dict[str, int], *, stopped: bool) -> int:
    """The exit code of a run whose jobs all ended, by the contract: 0, 10 (every job failed), 11 (some), 12. `stopped`
    says whether the run as a whole was cancelled: jobs that were cancelled by name alone are not 12."""
    if counts.get(State.FAILED):
        return 11 if counts.get(State.DONE) or counts.get(State.CANCELLED) else 10
    return 12 if stopped else 0


def run_state(counts: dict[str, int], *, stopped: bool) -> State:
    """The state of a run whose jobs all ended; see `exit_code`."""
    if counts.get(State.FAILED):
        return State.FAILED
    return State.CANCELLED if stopped else State.DONE
