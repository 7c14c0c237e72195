"""The requests that people may make of a run: per verb, the jobs it may change, the change, and the sentence about it.

Two back ends carry requests out: `live.py` in a run that is being rendered, `stored.py` in the state of any other.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from render_farm.scheduling.states import State
from render_farm.storage.mailbox import Answer, Request, Verb
from render_farm.storage.run_state import JobRow, RunControl

_LEFT = (State.WAITING, State.RUNNING)
_OTHERS_SHOWN = 5
MOST_EXPLAINED = 100
"""Jobs, where none is named."""


@dataclass(frozen=True, kw_only=True)
class JobRule:
    """A verb that changes jobs. Named jobs in other states stay as they are."""

    live: Collection[State]
    """States of jobs that it changes in a run that is being rendered."""
    stored: Collection[State]
    """The same in one that is not: a failed job, for example, would be tried again when that starts."""
    unnamed: Collection[State]
    """States of the jobs that a request without names means."""
    change: Callable[[JobRow, Request], JobRow]
    sentence: str

    def jobs(
        self, request: Request, allowed: Collection[State], every: Iterable[str], state_of: Callable[[str], str | None]
    ) -> list[str]:
        """The jobs that a request changes. `state_of` is None for a job that cannot change."""
        states = allowed if request.jobs else self.unnamed
        return [job_id for job_id in dict.fromkeys(request.jobs or every) if state_of(job_id) in states]

    def done(self, request: Request, jobs: list[str], state_of: Callable[[str], str | None]) -> Answer:
        """The answer, which says of named jobs that did not change what they are."""
        number = "1 job is" if len(jobs) == 1 else f"{len(jobs) or 'no'} jobs are"
        others = [f"{job_id} is {state_of(job_id)}" for job_id in dict.fromkeys(request.jobs) if job_id not in jobs]
        more = f" and {len(others) - _OTHERS_SHOWN} more" if len(others) > _OTHERS_SHOWN else ""
        why = f" ({', '.join(others[:_OTHERS_SHOWN])}{more})" if others else ""
        return done(self.sentence.format(jobs=number, priority=request.priority) + why, jobs=jobs)


@dataclass(frozen=True, kw_only=True)
class RunRule:
    """A verb that changes the run as a whole."""

    change: Callable[[RunControl, Request], RunControl]
    sentence: str

    def done(self, request: Request, run_id: str, **data: object) -> Answer:
        return done(self.sentence.format(run_id=run_id, host=request.value), **data)


def reason_of(request: Request) -> str:
    """The reason that is kept with what a request cancels."""
    return f"cancelled by {request.by or 'request'}" + (f": {request.reason}" if request.reason else "")


def _cancelled(row: JobRow, request: Request) -> JobRow:
    return replace(row, state=State.CANCELLED.value, taken_out=True, message=reason_of(request))


def _retried(row: JobRow, request: Request) -> JobRow:
    return replace(row, state=State.WAITING.value, taken_out=False, message=None, error_class=None)


def _quarantined(control: RunControl, request: Request) -> RunControl:
    reason, others = request.reason or f"by {request.by or 'request'}", _released(control, request)
    return replace(others, quarantined=(*others.quarantined, (request.value, reason)))


def _released(control: RunControl, request: Request) -> RunControl:
    return replace(
        control,
        quarantined=tuple(pair for pair in control.quarantined if pair[0] != request.value),
        machines={host: ids for host, ids in control.machines.items() if host != request.value},
    )


JOB_RULES = {
    Verb.CANCEL: JobRule(
        live=_LEFT,
        stored=(*_LEFT, State.FAILED, State.CANCELLED),
        unnamed=(),
        change=_cancelled,
        sentence="{jobs} cancelled",
    ),
    Verb.RETRY: JobRule(
        live=(State.FAILED, State.CANCELLED),
        stored=(State.FAILED, State.CANCELLED),
        unnamed=(State.FAILED,),
        change=_retried,
        sentence="{jobs} waiting again",
    ),
    Verb.PRIORITY: JobRule(
        live=_LEFT,
        stored=_LEFT,
        unnamed=_LEFT,
        change=lambda row, request: replace(row, priority=request.priority),
        sentence="{jobs} now of priority {priority}",
    ),
}
RUN_RULES = {
    Verb.PAUSE: RunRule(
        change=lambda control, request: replace(control, paused=True),
        sentence="run {run_id} is paused: no new segments start, and those being rendered are completed",
    ),
    Verb.RESUME: RunRule(
        change=lambda control, request: replace(control, paused=False), sentence="run {run_id} continues"
    ),
    Verb.QUARANTINE: RunRule(change=_quarantined, sentence="{host} gets no more work until it is released"),
    Verb.RELEASE: RunRule(change=_released, sentence="{host} gets work again"),
}


def check(request: Request, run_id: str, is_job: Callable[[str], bool]) -> Answer | None:
    """The refusal of a request that names an unknown job or no priority. None when it may be carried out."""
    unknown = [job_id for job_id in request.jobs if not is_job(job_id)]
    if unknown:
        return refused(f"run {run_id} has no job {unknown[0]!r}", not_found=True)
    if request.verb is Verb.PRIORITY and request.priority is None:
        return refused(f"priority {request.value!r:.40} is not a number from 0 to 100")
    return None


def continue_command(run_id: str, output: str) -> str:
    """The command that restarts a run that nobody renders."""
    return f"render-farm continue {run_id} --output {shlex.quote(output)}"


def explained(
    request: Request,
    run_id: str,
    states: Mapping[str, str],
    waiting: Collection[State],
    view: Callable[[str], dict[str, object]],
) -> Answer:
    """The answer of `explain`, a `view` of each job with its `text`. Where the request names none, it is about those
    that wait and those that failed, by the state of each."""
    jobs = list(request.jobs)
    if not jobs:
        jobs = [job_id for job_id, state in states.items() if state in waiting]
        jobs += [job_id for job_id, state in states.items() if state == State.FAILED]
    num_more = 0 if request.jobs else len(jobs[MOST_EXPLAINED:])
    views = [view(job_id) for job_id in jobs[: len(jobs) - num_more]]
    lines = [str(one["text"]) for one in views] or [f"no job of run {run_id} waits or has failed"]
    return done("\n".join([*lines, *([f"... and {num_more:,} more"] if num_more else [])]), jobs=views)


def done(text: str, **data: object) -> Answer:
    return Answer(ok=True, text=text, data=data)


def refused(text: str, *, not_found: bool = False, advice: str = "") -> Answer:
    return Answer(ok=False, text=f"{text} ({advice})" if advice else text, data={"not_found": not_found})
