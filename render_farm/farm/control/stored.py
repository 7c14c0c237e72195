"""Requests to a run that nobody renders: they change its durable state, for its next start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pyarrow import ArrowException

from render_farm.errors import InvalidJobError, StorageError
from render_farm.farm.control.verbs import (
    JOB_RULES,
    RUN_RULES,
    JobRule,
    check,
    continue_command,
    done,
    explained,
    refused,
)
from render_farm.manifest.parquet_rows import read_rows
from render_farm.scheduling.states import State
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import Lease
from render_farm.storage.mailbox import Answer, Request, Verb
from render_farm.storage.run_state import JobRow, RunControl, StoredRun, load_run_state
from render_farm.storage.store import Store

_LEFT = (State.WAITING, State.RUNNING)
_NEXT_START = "this takes effect when the run starts again"


def apply_to_state(
    state: StoredRun, run_id: str, request: Request, read_jobs: Callable[[], set[str]]
) -> tuple[dict[str, JobRow], RunControl, Answer]:
    """The rows that a request changes in a run that nobody renders, its control block then, and the answer.
    `read_jobs` gives every job of the run."""
    control = state.control
    known = {*state.jobs, *(read_jobs() if set(request.jobs) - state.jobs.keys() else ())}
    if (refusal := check(request, run_id, known.__contains__)) is not None:
        return {}, control, refusal
    verb = request.verb
    match verb:
        case Verb.CANCEL if not request.jobs:
            return {}, control, done("nobody renders the run, so there is nothing to cancel", jobs=[])
        case Verb.CANCEL | Verb.RETRY | Verb.PRIORITY:
            rows, answer = _change_jobs(state, request, JOB_RULES[verb], read_jobs)
        case Verb.HOSTS | Verb.EXPLAIN:
            lines = [f"{host}: quarantined: {why}" for host, why in control.quarantined]
            hosts = [{"host": host, "quarantined_for": why} for host, why in control.quarantined]
            return {}, control, done("\n".join(lines) or "no host is quarantined", hosts=hosts)
        case Verb.PAUSE | Verb.RESUME | Verb.QUARANTINE | Verb.RELEASE:
            control = RUN_RULES[verb].change(control, request)
            if verb is Verb.RELEASE and control == state.control:
                return {}, control, refused(f"host {request.value!r} is not quarantined", not_found=True)
            rows, answer = {}, RUN_RULES[verb].done(request, run_id, jobs=[])
            if verb is Verb.RESUME:
                rows_now = [_row(state, job_id) for job_id in read_jobs()]  # a failed job is tried again, too
                num_left = sum(row.state != State.DONE and not row.taken_out for row in rows_now)
                text = _resumed(state, run_id, num_left)
                return rows, control, replace(answer, text=text, data={**answer.data, "jobs_left": num_left})
    if rows or control != state.control:
        answer = replace(answer, text=f"{answer.text} ({_NEXT_START})")
    return rows, control, answer


def _resumed(state: StoredRun, run_id: str, num_left: int) -> str:
    """There is nothing to continue. At most a pause has ended."""
    pause = "its pause has ended" if state.control.paused else "it was not paused"
    over = "" if num_left else ", and no job of it is left to render"
    return f"nobody renders run {run_id}; {pause}{over}"


def _change_jobs(
    state: StoredRun, request: Request, rule: JobRule, read_jobs: Callable[[], set[str]]
) -> tuple[dict[str, JobRow], Answer]:
    # A job without a row waits, and only the manifest names it.
    every = sorted(read_jobs()) if not request.jobs and State.WAITING in rule.unnamed else list(state.jobs)

    def state_of(job_id: str) -> str:
        return _row(state, job_id).state

    jobs = rule.jobs(request, rule.stored, every, state_of)
    rows = {job_id: rule.change(_row(state, job_id), request) for job_id in jobs}
    return rows, rule.done(request, sorted(jobs), state_of)


def explained_stored(store: Store, run_id: str, request: Request, lease: Lease | None) -> Answer:
    """Why jobs of a run that nobody renders are as they are."""
    state = load_run_state(store, run_id)
    known = {*state.jobs, *job_ids(store, run_id)}
    if (refusal := check(request, run_id, known.__contains__)) is not None:
        return refusal
    last = f"the last to hold it was {lease.holder}" if lease else "nobody has held it"
    again = continue_command(run_id, store.root_uri)

    def left(job_id: str) -> bool:
        """Jobs of a run that was cancelled as a whole continue with it."""
        row = _row(state, job_id)
        return row.state in _LEFT or (row.state == State.CANCELLED and not row.taken_out)

    def view(job_id: str) -> dict[str, object]:
        row, is_left = _row(state, job_id), left(job_id)
        progress = f"{row.segments_done} of {row.segments} segments are stored" if row.segments else "nothing is stored"
        message = f": {row.message}" if row.message else ""
        why = f"nobody renders run {run_id} ({last}); `{again}` continues from there"
        if is_left:
            text = f"{'paused; ' if state.control.paused else ''}{progress}; {why}{message}"
        elif row.taken_out:
            text = f"cancelled by name{message}; `render-farm retry` puts it back"
        else:
            text = f"{row.state}{message}"
            if row.error_class == InvalidJobError.__name__:  # the run's manifest is stored
                text += "; correct the row, and start the run with the corrected manifest"
            elif row.state != State.DONE:
                text += f"; {progress}; `{again}` tries it again"
        said = State.WAITING if is_left else row.state
        return {"job_id": job_id, **row.to_dict(), "state": said, "text": f"{job_id}: {text}"}

    # A job without a row waits, and only the manifest names it.
    states = {job_id: State.WAITING if left(job_id) else _row(state, job_id).state for job_id in sorted(known)}
    return explained(request, run_id, states, _LEFT, view)


def _row(state: StoredRun, job_id: str) -> JobRow:
    return state.jobs.get(job_id, JobRow())


def job_ids(store: Store, run_id: str) -> set[str]:
    """Every job of the run's manifest. StorageError when it is damaged."""
    key = RunKeys(run_id=run_id).manifest
    data = store.read_bytes(key)
    try:
        return {str(row["job_id"]) for row in read_rows(data, ["job_id"])}
    except (ArrowException, ValueError, OSError, KeyError) as error:
        raise StorageError(
            f"{store.uri(key)} cannot be read: {' '.join(str(error).split())[:200]}",
            advice="the command that started the run writes it again",
        ) from error
