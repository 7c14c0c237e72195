"""What an output tree no longer needs: found first, shown, and removed only then.

A film's work folder is kept as long as a run could go on from it: while its job is not published with these pixels and
some run's state still names it, and in any case while its job is in the manifest of a run that is being rendered. What
no run has ever heard of is kept, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from render_farm.farm.control.stored import job_ids
from render_farm.storage.done import read_done
from render_farm.storage.layout import (
    CLAIMS,
    RUNS,
    WORK,
    ClaimKeys,
    FilmKeys,
    RunKeys,
    film_key,
    is_film,
    split_film_key,
)
from render_farm.storage.lease import read_lease
from render_farm.storage.process import is_dead
from render_farm.storage.publish import clean_work
from render_farm.storage.run_state import StoredRun, load_run_state
from render_farm.storage.store import Store

_READS_AT_ONCE = 16
_PROBE = "probe-"


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One folder that can go."""

    folder: str
    why: str
    num_objects: int


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """What the runs of the tree need."""

    live: frozenset[str]
    """Run ids that somebody holds, or may hold."""
    live_jobs: frozenset[str]
    """Jobs of their manifests."""
    needed: frozenset[str]
    """Films that a run could go on with."""
    superseded: frozenset[str]
    """Films that a run knew and its job has other pixels now."""
    complete: frozenset[str]
    """Run ids without any job left to do."""


def find_garbage(store: Store) -> list[Garbage]:
    """What can go, in the order of the tree. Nothing is changed. StorageError passes."""
    runs = _look_at_runs(store)
    folders = store.list_folders(WORK)
    films = [name for name in folders if is_film(name)]
    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        reasons = list(pool.map(lambda film: _why_film_can_go(store, film, runs), films))
    found = [(f"{WORK}/{film}", why) for film, why in zip(films, reasons, strict=True) if why]
    if not runs.live:  # else one may be starting just now
        found += [(f"{WORK}/{name}", "left by a probe of the store") for name in folders if name.startswith(_PROBE)]
    found += [
        (ClaimKeys(job_id=job_id).folder, "claim of a run that has ended")
        for job_id in store.list_folders(CLAIMS)
        if job_id not in runs.live_jobs
    ]
    for run_id in sorted(runs.complete - runs.live):
        keys = RunKeys(run_id=run_id)
        found.append((keys.embeddings, "prompts of a run that is complete"))
        found.append((keys.control, "requests to a run that is complete"))
    counted = [Garbage(folder=folder, why=why, num_objects=len(store.list(folder))) for folder, why in found]
    return [item for item in counted if item.num_objects]


def remove(store: Store, garbage: Iterable[Garbage]) -> int:
    """Remove what `find_garbage` found, and what dead writers left; the number of objects removed. A run that began
    meanwhile keeps what it needs: it is looked at again."""
    runs, removed = _look_at_runs(store), 0
    for item in garbage:
        name = item.folder.removeprefix(f"{WORK}/")
        if is_film(name):
            if not _why_film_can_go(store, name, runs):
                continue
            clean_work(store, name)
        elif item.folder.startswith(f"{CLAIMS}/") and item.folder.rpartition("/")[2] in runs.live_jobs:
            continue
        else:
            store.delete_tree(item.folder)
        removed += item.num_objects
    for folder in (WORK, RUNS):
        removed += store.sweep(folder)
    return removed


def left_by(store: Store, run_id: str, garbage: Iterable[Garbage]) -> list[Garbage]:
    """The garbage that is of one run: in its folder, or of the films that it rendered."""
    films = {
        film_key(job_id, row.render_key) for job_id, row in load_run_state(store, run_id).jobs.items() if row.render_key
    }
    own = {f"{WORK}/{film}" for film in films}
    return [
        item for item in garbage if item.folder in own or item.folder.startswith(f"{RunKeys(run_id=run_id).folder}/")
    ]


def _look_at_runs(store: Store) -> _Runs:
    ids = store.list_folders(RUNS)

    def look(run_id: str) -> tuple[str, set[str] | None, StoredRun]:
        lease = read_lease(store, run_id)
        is_live = lease is not None and not lease.released and not is_dead(lease.holder.process)
        return run_id, job_ids(store, run_id) if is_live else None, load_run_state(store, run_id)

    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        seen = list(pool.map(look, (run_id for run_id in ids if _is_run(run_id))))
    needed, known, complete = set(), set(), set()
    for run_id, live_jobs, state in seen:
        for job_id, row in state.jobs.items():
            if not row.render_key:
                continue
            known.add(film_key(job_id, row.render_key))
            if live_jobs is not None or row.state != "done":
                needed.add(film_key(job_id, row.render_key))
        if state.jobs and all(row.state == "done" for row in state.jobs.values()):
            complete.add(run_id)
    return _Runs(
        live=frozenset(run_id for run_id, live_jobs, _ in seen if live_jobs is not None),
        live_jobs=frozenset(job_id for _, live_jobs, _ in seen for job_id in live_jobs or ()),
        needed=frozenset(needed),
        superseded=frozenset(known - needed),
        complete=frozenset(complete),
    )


def _why_film_can_go(store: Store, film: str, runs: _Runs) -> str:
    """The reason, or "" when it has to stay."""
    job_id, render_key = split_film_key(film)
    if film in runs.needed or job_id in runs.live_jobs:
        return ""
    done = read_done(store, job_id)
    if done is not None and done["render_key"] == render_key:
        return "its film is published"
    # A row that changed under its run's id: no run knows the film any more, but it was published once.
    if done is not None and (film in runs.superseded or store.exists(FilmKeys(film=film).commit)):
        return "its job is published with other parameters"
    return ""


def _is_run(name: str) -> bool:
    try:
        RunKeys(run_id=name)
    except ValueError:
        return False
    return True
