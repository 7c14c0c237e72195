"""Requests to a run that is being rendered: they become events of the scheduling machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

from render_farm.farm.control.verbs import (
    JOB_RULES,
    RUN_RULES,
    JobRule,
    check,
    done,
    explained,
    reason_of,
    refused,
)
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.observability.events import EventKind
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.states import State
from render_farm.storage.mailbox import Answer, Request, Verb

_LOG_LINES = 5
_KINDS = {Verb.PAUSE: EventKind.RUN_PAUSED, Verb.RESUME: EventKind.RUN_RESUMED}


class LiveControl:
    """Answers requests with the coordinator's machine. Changes that must outlive the coordinator are left in
    `run.durable`."""

    def __init__(self, machine: FarmMachine, apply: Callable[[ev.Event], None]) -> None:
        self._machine = machine
        self._apply = apply

    def answer(self, run: OwnedRun, request: Request) -> Answer:
        """Carry a request out."""
        progress = run.progress
        known = {*progress.films, *progress.ended_before}
        coming = [job_id for job_id in request.jobs if progress.is_untold(job_id)]
        if (refusal := check(request, run.run_id, {*known, *coming}.__contains__)) is not None:
            return refusal
        if coming and request.verb is not Verb.EXPLAIN:
            return refused(f"job {coming[0]!r} is still being prepared", advice="try again when its inputs are read")
        if not run.started and not (request.verb is Verb.CANCEL and not request.jobs):
            return refused(f"run {run.run_id} is just starting", advice="try again in a few seconds")
        if request.verb not in (Verb.EXPLAIN, Verb.HOSTS):
            kind = _KINDS.get(request.verb, EventKind.REMARK)
            run.progress.log.add(_reported(request), level="warning", kind=kind)
        return self._carry_out(run, request)

    def _carry_out(self, run: OwnedRun, request: Request) -> Answer:
        verb, host = request.verb, request.value
        match verb:
            case Verb.PAUSE:
                event: ev.Event = ev.PauseRun(run_id=run.key)
                data = {"state": "paused"}
            case Verb.RESUME:
                event, data = ev.ResumeRun(run_id=run.key), {"state": "running"}
            case Verb.CANCEL if not request.jobs:
                run.progress.stop_reason = reason_of(request)
                if run.started:  # else it is cancelled when it is
                    self._apply(ev.CancelRun(run_id=run.key, reason=run.progress.stop_reason))
                return done(f"run {run.run_id} is cancelled. Everything that is stored stays", jobs=[])
            case Verb.CANCEL | Verb.RETRY | Verb.PRIORITY:
                return self._change_jobs(run, request, JOB_RULES[verb])
            case Verb.EXPLAIN:
                states = {job_id: result.state for job_id, result in run.progress.ended_before.items()}
                states |= {job_id: film.result.state for job_id, film in run.progress.films.items()}
                return explained(request, run.run_id, states, (State.WAITING,), lambda job_id: self._view(run, job_id))
            case Verb.HOSTS:
                return self._hosts()
            case Verb.QUARANTINE:
                if host not in {view.host for view in self._machine.hosts.views()}:
                    return refused(f"no worker has run on a host {host!r}", not_found=True)
                reason = request.reason or f"by {request.by or 'request'}"
                event, data = ev.QuarantineHost(host=host, reason=reason), {"host": host}
            case Verb.RELEASE:
                if not self._machine.hosts.is_quarantined(host):
                    return refused(f"host {host!r} is not quarantined", not_found=True)
                event, data = ev.ReleaseHost(host=host), {"host": host}
        run.control = RUN_RULES[verb].change(run.control, request)
        self._apply(event)
        return RUN_RULES[verb].done(request, run.run_id, **data)

    def _change_jobs(self, run: OwnedRun, request: Request, rule: JobRule) -> Answer:
        if request.verb is Verb.RETRY and self._machine.is_ending(run.key):
            return refused(f"run {run.run_id} is just ending", advice="try again in a few seconds")
        films, before = run.progress.films, run.progress.ended_before

        def state_of(job_id: str) -> str | None:
            return self._machine.state_of(ev.JobKey(run.key, job_id)) if job_id in films else before[job_id].state

        # What was over before this start is not the machine's to change.
        jobs = rule.jobs(request, rule.live, films, lambda job_id: state_of(job_id) if job_id in films else None)
        for job_id in jobs:
            run.change(job_id, lambda row: rule.change(row, request))
            if request.verb is Verb.RETRY and State(films[job_id].result.state).ended:
                run.progress.requeue(job_id)
        self._apply(_event(run.key, request, tuple(jobs)))
        return rule.done(request, jobs, state_of)

    def _view(self, run: OwnedRun, job_id: str) -> dict[str, object]:
        if run.progress.is_untold(job_id):
            state = str(State.WAITING)
            return {"job_id": job_id, "state": state, "text": f"{job_id}: waiting: its inputs are still being prepared"}
        film = run.progress.films.get(job_id)
        if film is None:
            result = run.progress.ended_before[job_id]
            return {"job_id": job_id, "state": str(result.state), "text": f"{job_id}: {result.state}: {result.message}"}
        state = self._machine.state_of(ev.JobKey(run.key, job_id))
        result, num_segments = film.result, film.entry.task.plan.num_segments
        known = {name: getattr(film, name) for name in ("segments_done", "step", "num_steps", "phase", "worker")}
        known |= {"num_segments": num_segments, "message": result.message or ""}
        view: dict[str, object] = {
            "job_id": job_id,
            **{name: value for name, value in known.items() if value not in ("", 0)},
            "state": str(state),
            "attempts": result.attempts,
            "error_class": result.error_class,
            "held_by": str(run.lease.holder),
            "log": [line.message for line in run.progress.log.after(0) if line.job_id == job_id][-_LOG_LINES:],
        }
        progress = f"{film.segments_done} of {num_segments} segments are stored"
        match state:
            case State.WAITING:
                stands_still = run.waits_for and not self._machine.workers
                why = self._machine.why_waiting(ev.JobKey(run.key, job_id), time.monotonic())
                view["why"] = run.waits_for if stands_still else why
                if run.encoding and run.progress.note:
                    view["why"] = f"{why} ({run.progress.note})"
                text = f"waiting: {view['why']}; {progress}"
                text += f"; last error: {result.message}" if result.message else ""
                for host, reason in sorted(self._machine.hosts.quarantined.items()):
                    text += f"; host {host} is quarantined: {reason}"
                text += f"; the run is held by {run.lease.holder}"
            case State.RUNNING:
                what = "being finished" if film.phase == "publish" else f"rendering segment {film.segments_done + 1}"
                step = f", step {film.step} of {film.num_steps}" if film.num_steps else ""
                text = f"{what} on {film.worker}{step}; {progress}"
            case State.DONE:
                text = f"done: {result.uri}"
            case State.CANCELLED if film.phase == "publish":
                text = f"cancelled; {film.worker} stops finishing it; {progress}"
            case _:
                text = f"{state} after {result.attempts} attempts: {result.message}; {progress}"
        view["text"] = f"{job_id}: {text}"
        return view

    def _hosts(self) -> Answer:
        views = self._machine.hosts.views()
        lines = [
            f"{view.host}: {view.num_workers} workers, {view.recent_faults} recent faults"
            + (f", quarantined: {view.quarantined_for}" if view.quarantined_for else "")
            for view in views
        ]
        return done("\n".join(lines) or "no worker has started yet", hosts=[asdict(view) for view in views])


def _event(key: str, request: Request, jobs: tuple[str, ...]) -> ev.Event:
    match request.verb:
        case Verb.CANCEL:
            return ev.CancelRun(run_id=key, reason=reason_of(request), job_ids=jobs)
        case Verb.RETRY:
            return ev.RetryFilms(run_id=key, job_ids=jobs)
        case _:
            return ev.SetPriority(run_id=key, job_ids=jobs, priority=request.priority or 0)


def _reported(request: Request) -> str:
    what = " ".join([request.verb.value, *request.jobs[:5], request.value]).strip()
    more = f" and {len(request.jobs) - 5} more" if len(request.jobs) > 5 else ""
    return f"requested by {request.by or 'somebody'}: {what}{more}"
