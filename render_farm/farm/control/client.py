"""Requests to a run from any shell: through its coordinator while one is alive, else to its durable state."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from render_farm.errors import LeaseHeldError, NotFoundError, RenderFarmError
from render_farm.farm.control.stored import apply_to_state, explained_stored, job_ids
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import Lease, LeaseTiming, acquire, read_lease, this_holder
from render_farm.storage.mailbox import Answer, Request, Verb, post, wait_answer
from render_farm.storage.process import is_dead
from render_farm.storage.run_state import RunStateWriter, load_run_state
from render_farm.storage.store import Store

_LOOK_EVERY_S = 2.0
_DIED = "Its coordinator died: a command that still waits for the run would continue it, so stop that command too"


@dataclass(frozen=True, kw_only=True)
class RequestOutcome:
    """The outcome of a request."""

    answer: Answer
    live: bool
    """Whether a coordinator answered; else its durable state did."""
    is_kept: bool = False
    """Whether something was written to that state, for the next start."""


def ask(
    store: Store, run_id: str, request: Request, *, timing: LeaseTiming | None = None, wait_s: float = 20.0
) -> RequestOutcome:
    """Have `request` done. NotFoundError when there is no such run; RenderFarmError when its coordinator is alive and
    does not answer within `wait_s`; StorageError passes."""
    timing = timing or LeaseTiming()
    if not store.exists(RunKeys(run_id=run_id).run):
        raise NotFoundError(f"there is no run {run_id!r} in {store.root_uri}", advice="check its _runs folder")
    seen = read_lease(store, run_id)
    if seen is not None and not seen.released and not is_dead(seen.holder.process):
        silence = _Silence(store, run_id, seen, timing.gone_after_s)
        request_id = post(store, run_id, request)
        answer = wait_answer(store, run_id, request_id, max(wait_s, timing.gone_after_s + 5), is_over=silence.is_over)
        if answer is not None:
            return RequestOutcome(answer=answer, live=True)
        if not silence.holder_left:
            raise RenderFarmError(
                f"run {run_id} is held by {seen.holder}, which does not answer; the request was withdrawn",
                advice="try again; a coordinator with bad access to the output answers late",
            )
    if request.verb is Verb.EXPLAIN:
        return RequestOutcome(answer=explained_stored(store, run_id, request, read_lease(store, run_id)), live=False)
    if request.verb is Verb.HOSTS:
        return RequestOutcome(answer=apply_to_state(load_run_state(store, run_id), run_id, request, set)[2], live=False)
    if _is_of_the_run(request):
        answer = _answer_of_the_next(store, run_id, request, max(wait_s, timing.gone_after_s + 5))
        if answer is not None:
            return RequestOutcome(answer=answer, live=True)
    try:
        handle = acquire(store, run_id, this_holder("command line"), timing)
    except LeaseHeldError:  # it was taken on in this moment
        return ask(store, run_id, request, timing=timing, wait_s=wait_s)
    try:
        state = load_run_state(store, run_id)
        rows, control, answer = apply_to_state(state, run_id, request, lambda: job_ids(store, run_id))
        if _is_of_the_run(request) and handle.is_taken_over:
            answer = replace(answer, text=f"{answer.text}. {_DIED}")
        is_kept = answer.ok and (bool(rows) or control != state.control)
        if is_kept:
            RunStateWriter(store, run_id, state).write(rows, control)
        return RequestOutcome(answer=answer, live=False, is_kept=is_kept)
    finally:
        handle.release()


def _is_of_the_run(request: Request) -> bool:
    """Whether it cancels a whole run. Such a request acts now and is not stored for the next start."""
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
