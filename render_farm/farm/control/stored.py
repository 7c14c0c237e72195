"""What people ask of a run that nobody renders: requests change its durable state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyarrow import ArrowException

from render_farm.errors import StorageError
from render_farm.manifest.parquet_rows import read_rows
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import Lease
from render_farm.storage.mailbox import Answer, Request, Verb
from render_farm.storage.run_state import JobRow, RunControl, StoredRun, load_run_state
from render_farm.storage.store import Store

_ENDED = ("done", "failed", "cancelled")


def apply_to_state(
    state: StoredRun, request: Request, read_jobs: Callable[[], set[str]]
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


def explained(store: Store, run_id: str, request: Request, lease: Lease | None) -> Answer:
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
