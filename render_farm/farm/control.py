"""Asking something of a run, from any shell: through its coordinator while one is alive, else by its durable state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pyarrow import ArrowException

from render_farm.errors import LeaseHeldError, NotFoundError, RenderFarmError, StorageError
from render_farm.manifest.parquet_rows import read_rows
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import Lease, LeaseTiming, acquire, read_lease, this_holder
from render_farm.storage.mailbox import Answer, Request, Verb, post, wait_answer
from render_farm.storage.process import is_dead
from render_farm.storage.run_state import JobRow, RunControl, RunState, RunStateWriter, load_run_state
from render_farm.storage.store import Store

_LOOK_EVERY_S = 2.0
_DIED = "Its coordinator died: a command that still waits for the run would go on with it; stop that one too"
_ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a request."""

    answer: Answer
    live: bool
    """Whether a coordinator answered; else its durable state did."""
    is_kept: bool = False
    """Whether something was written to that state, for the next start."""


def ask(
    store: Store, run_id: str, request: Request, *, timing: LeaseTiming | None = None, wait_s: float = 20.0
) -> Outcome:
    """Have `request` done. NotFoundError when there is no such run; RenderFarmError when its coordinator is alive and
    does not answer within `wait_s`; StorageError passes."""
    timing = timing or LeaseTiming()
    if not store.exists(RunKeys(run_id=run_id).run):
        raise NotFoundError(f"there is no run {run_id!r} in {store.root_uri}", advice="look into its _runs folder")
    seen = read_lease(store, run_id)
    if seen is not None and not seen.released and not is_dead(seen.holder.process):
        silence = _Silence(store, run_id, seen, timing.gone_after_s)
        request_id = post(store, run_id, request)
        answer = wait_answer(store, run_id, request_id, max(wait_s, timing.gone_after_s + 5), is_over=silence.is_over)
        if answer is not None:
            return Outcome(answer=answer, live=True)
        if not silence.holder_left:
            raise RenderFarmError(
                f"run {run_id} is held by {seen.holder}, which does not answer; the request was withdrawn",
                advice="try again; a coordinator with bad access to the output answers late",
            )
    if request.verb is Verb.EXPLAIN:
        return Outcome(answer=_explained(store, run_id, request, read_lease(store, run_id)), live=False)
    if request.verb is Verb.HOSTS:
        return Outcome(answer=apply_to_state(load_run_state(store, run_id), request, set)[2], live=False)
    if _is_of_the_run(request):
        answer = _answer_of_the_next(store, run_id, request, max(wait_s, timing.gone_after_s + 5))
        if answer is not None:
            return Outcome(answer=answer, live=True)
    try:
        handle = acquire(store, run_id, this_holder("command line"), timing)
    except LeaseHeldError:  # it was taken on in this moment
        return ask(store, run_id, request, timing=timing, wait_s=wait_s)
    try:
        state = load_run_state(store, run_id)
        rows, control, answer = apply_to_state(state, request, lambda: job_ids(store, run_id))
        if _is_of_the_run(request) and handle.is_taken_over:
            answer = replace(answer, text=f"{answer.text}. {_DIED}")
        is_kept = answer.ok and (bool(rows) or control != state.control)
        if is_kept:
            RunStateWriter(store, run_id, state).write(rows, control)
        return Outcome(answer=answer, live=False, is_kept=is_kept)
    finally:
        handle.release()


def _is_of_the_run(request: Request) -> bool:
    """Whether it cancels a whole run: that is an act, and nothing that is kept for the next start."""
    return request.verb is Verb.CANCEL and not request.jobs


def _answer_of_the_next(store: Store, run_id: str, request: Request, wait_s: float) -> Answer | None:
    """Of the coordinator that Ray starts in the place of one that died: the commands that wait for the run give it to
    that one. None when the run was given back, or nobody takes it on in time; a private Ray starts none."""
    lease = read_lease(store, run_id)
    if lease is None or lease.released or lease.holder.address == "local":
        return None
    request_id = post(store, run_id, request)
    try:
        return wait_answer(store, run_id, request_id, wait_s)
    except BaseException:  # Ctrl-C: it would cancel what somebody starts tomorrow
        store.delete(RunKeys(run_id=run_id).request(request_id))
        raise


class _Silence:
    """Whether the holder of a lease has left: released it, died, or shown no sign for `gone_after_s`."""

    def __init__(self, store: Store, run_id: str, seen: Lease, gone_after_s: float) -> None:
        self._store = store
        self._run_id = run_id
        self._seen = seen
        self._gone_after_s = gone_after_s
        self._seen_s = self._looked_s = time.monotonic()
        self.holder_left = False

    def is_over(self) -> bool:
        now = time.monotonic()
        if now - self._looked_s < _LOOK_EVERY_S:
            return False
        self._looked_s = now
        lease = read_lease(self._store, self._run_id)
        if lease != self._seen and lease is not None:
            self._seen, self._seen_s = lease, now
        gone = lease is None or lease.released or is_dead(lease.holder.process)
        self.holder_left = gone or now - self._seen_s > self._gone_after_s
        return self.holder_left


def apply_to_state(
    state: RunState, request: Request, read_jobs: Callable[[], set[str]]
) -> tuple[dict[str, JobRow], RunControl, Answer]:
    """What a request changes in a run that nobody renders. `read_jobs` gives every job it has."""
    control, rows = state.control, {}
    unknown = sorted(set(request.jobs) - set(state.jobs) - (read_jobs() if request.jobs else set()))
    if unknown:
        return {}, control, _no(f"the run has no job {unknown[0]!r}", not_found=True)

    def row(job_id: str) -> JobRow:
        return state.jobs.get(job_id, JobRow())

    match request.verb:
        case Verb.PAUSE:
            control, text = replace(control, paused=True), "it is paused when it is started again"
        case Verb.RESUME:
            control, text = replace(control, paused=False), "it goes on when it is started again"
        case Verb.CANCEL if not request.jobs:
            text = "nobody renders it: nothing was to be cancelled"
        case Verb.CANCEL:
            rows = {
                job_id: replace(row(job_id), state="cancelled", taken_out=True, message=_by(request))
                for job_id in request.jobs
                if row(job_id).state != "done"
            }
            text = f"{len(rows)} jobs are left out when it is started again"
        case Verb.RETRY:
            wanted = request.jobs or [job for job, known in state.jobs.items() if known.state == "failed"]
            rows = {
                job_id: replace(row(job_id), state="waiting", taken_out=False, message=None, error_class=None)
                for job_id in wanted
                if row(job_id).state in ("failed", "cancelled")
            }
            text = f"{len(rows)} jobs are tried again when it is started again"
        case Verb.PRIORITY:
            if request.priority is None:
                return {}, control, _no(f"priority {request.value!r:.40} is not a number from 0 to 100")
            wanted = request.jobs or sorted(read_jobs())
            rows = {
                job_id: replace(row(job_id), priority=request.priority)
                for job_id in wanted
                if row(job_id).state not in _ENDED
            }
            text = f"{len(rows)} jobs have priority {request.priority} when it is started again"
        case Verb.RELEASE:
            left = tuple(pair for pair in control.quarantined if pair[0] != request.value)
            if left == control.quarantined:
                return {}, control, _no(f"host {request.value!r} is not quarantined", not_found=True)
            control, text = replace(control, quarantined=left), f"{request.value} gets work again"
        case Verb.QUARANTINE:
            kept = tuple(pair for pair in control.quarantined if pair[0] != request.value)
            control = replace(control, quarantined=(*kept, (request.value, request.reason or _by(request))))
            text = f"{request.value} gets no work when it is started again"
        case _:
            text = (
                "\n".join(f"{host}: quarantined: {why}" for host, why in control.quarantined)
                or "no host is quarantined"
            )
    facts: dict[str, Any] = (
        {"jobs": sorted(rows)}
        if request.verb is not Verb.HOSTS
        else {"hosts": [{"host": host, "quarantined_for": why} for host, why in control.quarantined]}
    )
    return rows, control, Answer(ok=True, text=text, facts=facts)


def _explained(store: Store, run_id: str, request: Request, lease: Lease | None) -> Answer:
    """Why jobs of a run that nobody renders are as they are."""
    state = load_run_state(store, run_id)
    unknown = sorted(set(request.jobs) - set(state.jobs) - job_ids(store, run_id))
    if unknown:
        return _no(f"the run has no job {unknown[0]!r}", not_found=True)
    last = f"the last to hold it was {lease.holder}" if lease else "nobody has held it"
    views = []
    for job_id in request.jobs:
        row = state.jobs.get(job_id, JobRow())
        far = f"{row.segments_done} of {row.segments} segments are stored" if row.segments else "nothing is stored"
        said = f": {row.message}" if row.message else ""
        why = f"nobody renders run {run_id} ({last}); the command that started it goes on from there"
        if row.state in ("waiting", "running"):
            text = f"{'paused; ' if state.control.paused else ''}{far}; {why}{said}"
        elif row.taken_out:
            text = f"cancelled by name{said}; `render-farm retry` puts it back"
        else:
            text = f"{row.state}{said}" + ("" if row.state == "done" else f"; {far}; the same command tries it again")
        views.append({"job_id": job_id, **row.to_dict(), "state": row.state, "text": f"{job_id}: {text}"})
    return Answer(ok=True, text="\n".join(view["text"] for view in views), facts={"jobs": views})


def job_ids(store: Store, run_id: str) -> set[str]:
    """Every job of the run's manifest. StorageError when it is damaged."""
    key = RunKeys(run_id=run_id).manifest
    data = store.read_bytes(key)
    try:
        return {str(row["job_id"]) for row in read_rows(data, ["job_id"])}
    except (ArrowException, ValueError, OSError, KeyError) as error:
        raise StorageError(
            f"{store.uri(key)} cannot be read: {' '.join(str(error).split())[:200]}",
            advice="the command that started the run writes it anew",
        ) from error


def _by(request: Request) -> str:
    return f"cancelled by {request.by or 'request'}" + (f": {request.reason}" if request.reason else "")


def _no(text: str, *, not_found: bool = False) -> Answer:
    return Answer(ok=False, text=text, facts={"not_found": not_found})
