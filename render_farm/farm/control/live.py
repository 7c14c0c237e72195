"""What people ask of a run that is being rendered: requests become the machine's events, answers are sentences."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from render_farm.farm.run.owned_run import OwnedRun
from render_farm.observability.events import EventKind
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.states import State
from render_farm.storage.mailbox import Answer, Request, Verb

_LOG_LINES = 5
_KINDS = {Verb.PAUSE: EventKind.RUN_PAUSED, Verb.RESUME: EventKind.RUN_RESUMED}


class LiveControl:
    """Answers requests with the coordinator's machine. What has to outlive the coordinator is left in `run.durable`."""

    def __init__(self, machine: FarmMachine, apply: Callable[[ev.Event], None]) -> None:
        self._machine = machine
        self._apply = apply

    def answer(self, run: OwnedRun, request: Request) -> Answer:
        """Do what is asked and say what came of it."""
        known = {*run.record.films, *(result.job_id for result in run.record.spec.ended)}
        unknown = [job for job in request.jobs if job not in known]
        if unknown:
            return _refused(f"run {run.run_id} has no job {unknown[0]!r}", not_found=True)
        if not run.sealed:
            return _refused(f"run {run.run_id} is just starting", advice="try again in a few seconds")
        if request.verb is not Verb.EXPLAIN and request.verb is not Verb.HOSTS:
            kind = _KINDS.get(request.verb, EventKind.REMARK)
            run.record.log.add(_told(request), level="warning", kind=kind)
        return getattr(self, f"_{request.verb.value}")(run, request)

    # --- runs and jobs ---

    def _pause(self, run: OwnedRun, request: Request) -> Answer:
        self._apply(ev.PauseRun(run_id=run.key))
        run.control = replace(run.control, paused=True)
        return _done(
            f"run {run.run_id} is paused: segments that are being rendered go on, no others begin", state="paused"
        )

    def _resume(self, run: OwnedRun, request: Request) -> Answer:
        self._apply(ev.ResumeRun(run_id=run.key))
        run.control = replace(run.control, paused=False)
        return _done(f"run {run.run_id} goes on", state="running")

    def _cancel(self, run: OwnedRun, request: Request) -> Answer:
        reason = f"cancelled by {request.by or 'request'}" + (f": {request.reason}" if request.reason else "")
        if not request.jobs:
            run.record.stop_reason = reason
            self._apply(ev.CancelRun(run_id=run.key, reason=reason))
            return _done(f"run {run.run_id} is cancelled; what is stored stays", jobs=[])
        jobs = self._films_in(run, request, State.WAITING, State.RUNNING)
        for job_id in jobs:
            run.ask(job_id, taken_out=True)
        self._apply(ev.CancelRun(run_id=run.key, reason=reason, job_ids=tuple(jobs)))
        return _done(f"{_jobs(jobs)} cancelled", jobs=jobs)

    def _retry(self, run: OwnedRun, request: Request) -> Answer:
        if self._machine.is_ending(run.key):
            return _refused(f"run {run.run_id} is just ending", advice="try again in a few seconds")
        jobs = self._films_in(run, request, State.FAILED, State.CANCELLED)
        for job_id in jobs:
            run.ask(job_id, taken_out=False)
            run.record.requeue(job_id)
        self._apply(ev.RetryFilms(run_id=run.key, job_ids=tuple(jobs)))
        return _done(f"{_jobs(jobs)} waiting again", jobs=jobs)

    def _priority(self, run: OwnedRun, request: Request) -> Answer:
        if request.priority is None:
            return _refused(f"priority {request.value!r:.40} is not a number from 0 to 100")
        jobs = self._films_in(run, request, State.WAITING, State.RUNNING)
        for job_id in jobs:
            run.ask(job_id, priority=request.priority)
        self._apply(ev.SetPriority(run_id=run.key, job_ids=tuple(jobs), priority=request.priority))
        return _done(f"{_jobs(jobs)} of priority {request.priority} now", jobs=jobs)

    def _films_in(self, run: OwnedRun, request: Request, *states: State) -> list[str]:
        """The jobs that are meant and in one of `states`; without names, all in the last of them that can be."""
        named = request.jobs or tuple(run.record.films)
        if not request.jobs and request.verb is Verb.RETRY:
            states = (State.FAILED,)
        return [
            job_id
            for job_id in named
            if job_id in run.record.films and self._machine.state_of(ev.JobKey(run.key, job_id)) in states
        ]

    # --- explaining ---

    def _explain(self, run: OwnedRun, request: Request) -> Answer:
        views = [self._view(run, job_id) for job_id in request.jobs]
        return _done("\n".join(str(view["text"]) for view in views), jobs=views)

    def _view(self, run: OwnedRun, job_id: str) -> dict[str, Any]:
        film = run.record.films.get(job_id)
        if film is None:
            result = next(result for result in run.record.spec.ended if result.job_id == job_id)
            return {"job_id": job_id, "state": str(result.state), "text": f"{job_id}: {result.state}: {result.message}"}
        state = self._machine.state_of(ev.JobKey(run.key, job_id))
        result, num_segments = film.result, film.entry.task.plan.num_segments
        known = {name: getattr(film, name) for name in ("segments_done", "step", "num_steps", "phase", "worker")}
        known |= {"num_segments": num_segments, "message": result.message or ""}
        view: dict[str, Any] = {
            "job_id": job_id,
            **{name: value for name, value in known.items() if value not in ("", 0)},
            "state": str(state),
            "attempts": result.attempts,
            "error_class": result.error_class,
            "held_by": str(run.lease.holder),
            "log": [line.message for line in run.record.log.after(0) if line.job_id == job_id][-_LOG_LINES:],
        }
        far = f"{film.segments_done} of {num_segments} segments are stored"
        match state:
            case State.WAITING:
                view["why"] = self._machine.why_waiting(ev.JobKey(run.key, job_id), time.monotonic())
                text = f"waits: {view['why']}; {far}"
                text += f"; last error: {result.message}" if result.message else ""
                for host, reason in sorted(self._machine.hosts.quarantined.items()):
                    text += f"; host {host} is quarantined: {reason}"
                text += f"; the run is held by {run.lease.holder}"
            case State.RUNNING:
                what = "being finished" if film.phase == "publish" else f"rendering segment {film.segments_done + 1}"
                step = f", step {film.step} of {film.num_steps}" if film.num_steps else ""
                text = f"{what} on {film.worker}{step}; {far}"
            case State.DONE:
                text = f"done: {result.uri}"
            case _:
                text = f"{state} after {result.attempts} attempts: {result.message}; {far}"
        view["text"] = f"{job_id}: {text}"
        return view

    # --- hosts ---

    def _hosts(self, run: OwnedRun, request: Request) -> Answer:
        views = self._machine.hosts.views()
        lines = [
            f"{view.host}: {view.num_workers} workers, {view.recent_faults} recent faults"
            + (f", quarantined: {view.quarantined_for}" if view.quarantined_for else "")
            for view in views
        ]
        return _done("\n".join(lines) or "no worker has started yet", hosts=[asdict(view) for view in views])

    def _quarantine(self, run: OwnedRun, request: Request) -> Answer:
        if request.value not in {view.host for view in self._machine.hosts.views()}:
            return _refused(f"no worker has run on a host {request.value!r}", not_found=True)
        self._apply(ev.QuarantineHost(host=request.value, reason=request.reason or f"by {request.by or 'request'}"))
        return _done(f"{request.value} gets no more work until it is released", host=request.value)

    def _release(self, run: OwnedRun, request: Request) -> Answer:
        if not self._machine.hosts.is_quarantined(request.value):
            return _refused(f"host {request.value!r} is not quarantined", not_found=True)
        self._apply(ev.ReleaseHost(host=request.value))
        return _done(f"{request.value} gets work again", host=request.value)


def _done(text: str, **facts: Any) -> Answer:
    return Answer(ok=True, text=text, facts=facts)


def _refused(text: str, *, not_found: bool = False, advice: str = "") -> Answer:
    return Answer(ok=False, text=f"{text} ({advice})" if advice else text, facts={"not_found": not_found})


def _jobs(jobs: list[str]) -> str:
    return f"{len(jobs)} job{'s are' if len(jobs) != 1 else ' is'}"


def _told(request: Request) -> str:
    what = " ".join([request.verb.value, *request.jobs[:5], request.value]).strip()
    more = f" and {len(request.jobs) - 5} more" if len(request.jobs) > 5 else ""
    return f"asked by {request.by or 'somebody'}: {what}{more}"
