"""The failure policy as one table: whose fault it was, and what it was, decide what happens, how often and when.

`guide/failures.md` shows the same table, and a test compares them. `farm/coordinator/failures.py` says whose fault an
exception is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from render_farm.errors import Fault

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0


class Then(StrEnum):
    """What happens next."""

    FAIL = "the job fails at once, with advice"
    STEP_DOWN = "again at once with the next memory mode. Fails when none is left"
    ELSEWHERE = "again on another worker, or in a fresh process"
    ANYWHERE = "again, on any worker"
    AT_ONCE = "again at once, on any worker"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row of the policy."""

    fault: Fault
    errors: tuple[str, ...]
    """Error classes; () is every other one of that fault."""
    then: Then
    counted: bool
    """Towards `attempts`, and against the worker's host."""
    delayed: bool
    """1 s, 2 s, 4 s ... up to 60 s, each a quarter more or less."""
    ends_process: bool = False
    """The worker's process ends, and a fresh one takes its place."""
    attempts: int | None = None
    """At most that many tries with these errors, whatever the settings say."""
    blames_host: bool = True
    """Whether a counted failure counts against the worker's host, too."""
    suspects_host: bool = False
    """It counts against the worker's host while no other host has it."""

    @property
    def is_of_process(self) -> bool:
        """Whether any film of the process may have been the cause."""
        return self.ends_process and self.blames_host


POLICY: tuple[Rule, ...] = (
    Rule(fault=Fault.JOB, errors=("OutOfMemoryError",), then=Then.STEP_DOWN, counted=False, delayed=False),
    Rule(fault=Fault.JOB, errors=("FilmRejectedError",), then=Then.AT_ONCE, counted=False, delayed=False),
    Rule(fault=Fault.JOB, errors=(), then=Then.FAIL, counted=False, delayed=False),
    Rule(
        fault=Fault.WORKER,
        errors=("DeviceError", "WorkerDiedError", "HostMemoryError"),
        then=Then.ELSEWHERE,
        counted=True,
        delayed=True,
        ends_process=True,
    ),
    Rule(
        fault=Fault.WORKER,
        errors=("NotFiniteError",),
        then=Then.ELSEWHERE,
        counted=True,
        delayed=True,
        ends_process=True,
        attempts=2,
        blames_host=False,  # most often it is the film's: its LoRAs, or its model
    ),
    Rule(
        fault=Fault.WORKER,
        errors=("HookError",),
        then=Then.ELSEWHERE,
        counted=True,
        delayed=True,
        blames_host=False,  # most often it is the hook's, on every machine
    ),
    Rule(fault=Fault.WORKER, errors=(), then=Then.ELSEWHERE, counted=True, delayed=True),
    Rule(
        fault=Fault.CLUSTER,
        errors=("PreemptedError", "NodeLostError"),
        then=Then.AT_ONCE,
        counted=False,
        delayed=False,
        ends_process=True,
    ),
    Rule(
        fault=Fault.CLUSTER,
        errors=("StorageError", "StorageUnavailableError", "StorageFullError"),
        then=Then.ANYWHERE,
        counted=False,
        delayed=True,
        suspects_host=True,
    ),
    Rule(fault=Fault.CLUSTER, errors=(), then=Then.ANYWHERE, counted=False, delayed=True),
    Rule(fault=Fault.USER, errors=(), then=Then.FAIL, counted=False, delayed=False),
)
"""The first row that fits counts."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Limits of trying again."""

    attempts: int = 3
    """Tries of one piece of work that count; the first included."""
    patience_s: float = 600.0
    """How long the cluster's faults in a row are waited out."""
    jitter: float = 0.25
    """Share by which a delay is longer or shorter, so that many do not come back at once."""
    host_faults: int = 3
    """Faults of one host within `host_window_s` that have it quarantined."""
    host_window_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failed piece of work, as the scheduler needs to know it."""

    fault: Fault
    error_class: str
    message: str
    """For people, advice included."""
    poisons_process: bool = False
    """The worker's process must end (a CUDA error, a corrupted state), whatever the table says."""


def beside(worker: str, failure: Failure, *, blamed: str) -> Failure:
    """What happened to the other films of a worker whose process ends because of one film's failure, for which the
    worker `blamed` is. They may be to blame for what their own process did, and not for a group's exchanges."""
    of_process = failure.poisons_process or rule_for(failure).is_of_process
    if of_process and worker == blamed and failure.error_class != "BrokenGroupError":
        return failure
    message = f"{worker} was ended because of another film beside it: {failure.message}"
    return Failure(fault=Fault.CLUSTER, error_class="PreemptedError", message=message)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from a failure."""

    retry: bool
    delay_s: float = 0.0
    counted: bool = False
    avoid_worker: bool = False
    step_down: bool = False
    """The next try takes the next memory mode."""


def rule_for(failure: Failure) -> Rule:
    """The row of the policy that fits."""
    return next(
        rule
        for rule in POLICY
        if rule.fault is failure.fault and (not rule.errors or failure.error_class in rule.errors)
    )


def judge(
    failure: Failure,
    *,
    faults_before: Sequence[str],
    waits_before: int,
    waiting_for_s: float,
    policy: RetryPolicy,
    memory_modes_left: int = 0,
    seed: str = "",
) -> Verdict:
    """Decide on a failure of work that failed with the error classes `faults_before` by its workers' fault.

    The cluster failed it `waits_before` times in a row, for `waiting_for_s` seconds so far. `seed` varies the delay.
    """
    rule = rule_for(failure)
    before = len(faults_before) if rule.counted else waits_before
    delay_s = _delay_s(before, policy.jitter, f"{seed}/{before}") if rule.delayed else 0.0
    match rule.then:
        case Then.STEP_DOWN:
            return Verdict(retry=memory_modes_left > 0, step_down=memory_modes_left > 0)
        case Then.ELSEWHERE:
            alike = faults_before.count(failure.error_class)
            retry = before + 1 < policy.attempts and (rule.attempts is None or alike + 1 < rule.attempts)
            return Verdict(retry=retry, delay_s=delay_s, counted=True, avoid_worker=True)
        case Then.ANYWHERE:
            return Verdict(retry=waiting_for_s < policy.patience_s, delay_s=delay_s)
        case Then.AT_ONCE:
            return Verdict(retry=True)
        case _:
            return Verdict(retry=False)


def _delay_s(number: int, jitter: float, seed: str) -> float:
    draw = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") / 2**32
    return min(_FIRST_DELAY_S * 2.0**number, _LONGEST_DELAY_S) * (1 + jitter * (2 * draw - 1))
