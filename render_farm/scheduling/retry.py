"""The failure policy: whose fault it was decides what happens, how often and after which delay.

| fault   | what happens                                   | counted | delay                   | gives up             |
|---------|------------------------------------------------|---------|-------------------------|----------------------|
| job     | the job fails at once, with advice             | -       | -                       | at once              |
| worker  | again on another worker, or in a fresh process | yes     | 1 s, 2 s, 4 s ...       | after `attempts`     |
| cluster | again, wherever                                | no      | 1 s, 2 s ... up to 60 s | after `patience_s`   |
"""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.errors import Fault

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How patient the farm is."""

    attempts: int = 3
    """Tries of one piece of work that count; the first included."""
    patience_s: float = 600.0
    """How long the cluster's faults in a row are waited out."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failed piece of work, as the scheduler needs to know it."""

    fault: Fault
    error_class: str
    message: str
    """For people, advice included."""
    poisons_process: bool = False
    """The worker's process must end (a CUDA error, a corrupted state)."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from a failure."""

    retry: bool
    delay_s: float = 0.0
    counted: bool = False
    avoid_worker: bool = False


def judge(
    failure: Failure, *, counted_before: int, waits_before: int, waiting_for_s: float, policy: RetryPolicy
) -> Verdict:
    """Decide on a failure of work that failed `counted_before` times by its workers' fault.

    The cluster failed it `waits_before` times in a row, for `waiting_for_s` seconds so far.
    """
    if failure.fault is Fault.WORKER:
        if counted_before + 1 >= policy.attempts:
            return Verdict(retry=False, counted=True, avoid_worker=True)
        return Verdict(retry=True, delay_s=_delay_s(counted_before), counted=True, avoid_worker=True)
    if failure.fault is Fault.CLUSTER:
        if waiting_for_s >= policy.patience_s:
            return Verdict(retry=False)
        return Verdict(retry=True, delay_s=_delay_s(waits_before))
    return Verdict(retry=False)


def _delay_s(number: int) -> float:
    return min(_FIRST_DELAY_S * 2**number, _LONGEST_DELAY_S)
