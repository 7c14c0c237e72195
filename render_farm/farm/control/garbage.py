"""Finds what an output tree no longer needs, and removes it after it was shown.

A film's work folder is kept as long as a run could continue from it: while its job is not published with these pixels
and some run's state still names it, and in any case while its job is in the manifest of a run that is being rendered.
What no run has ever heard of is kept, too. A run that is held, and has no manifest yet, is just starting: while it is,
nothing of any film goes. A holder that shows no sign for half a minute holds nothing, so that one that died elsewhere
keeps nobody from cleaning up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from render_farm.errors import NotFoundError, StorageError
from render_farm.farm.control.stored import job_ids
from render_farm.storage.done import is_whole, read_done
from render_farm.storage.layout import (
    CLAIMS,
    PUBLISHING,
    RUNS,
    WORK,
    ClaimKeys,
    FilmKeys,
    RunKeys,
    film_key,
    is_film,
    is_output_folder,
    publishing_folder,
    split_film_key,
)
from render_farm.storage.lease import HolderWatch
from render_farm.storage.probe import is_old_probe
from render_farm.storage.publish import clean_work
from render_farm.storage.run_state import load_run_state
from render_farm.storage.store import Store

_READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One folder that can be removed."""

    folder: str
    why: str
    num_objects: int


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """What the runs of the tree need."""

    live: frozenset[str]
    """Run ids that somebody holds, or may hold."""
    live_jobs: frozenset[str] | None
    """Jobs of their manifests; None: any job may be."""
    needed: frozenset[str]
    """Films that a run could continue."""
    superseded: frozenset[str]
    """Films that a run knew and its job has other pixels now."""
    complete: frozenset[str]
    """Run ids without any job left to do."""

    def is_live(self, job_id: str) -> bool:
        """Whether a run that somebody holds has the job, or may have it."""
        return self.live_jobs is None or job_id in self.live_jobs


def find_garbage(store: Store, watch: HolderWatch | None = None) -> list[Garbage]:
    """What can be removed, in the order of the tree. Nothing is changed. `watch` tells runs that are held from those
    whose holder died. StorageError passes."""
    runs = _look_at_runs(store, watch or HolderWatch())
    folders = store.list_folders(WORK)
    films = [name for name in folders if is_film(name)]
    publishing = {key.split("/")[-2] for key in store.list(PUBLISHING)}
    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        reasons = list(pool.map(lambda film: _why_film_can_go(store, film, runs, publishing), films))
    found = [(f"{WORK}/{film}", why) for film, why in zip(films, reasons, strict=True) if why]
    found += [(f"{WORK}/{name}", "left by a probe of the store") for name in folders if is_old_probe(name)]
    found += [
        (publishing_folder(job_id), "left by a publisher that died")
        for job_id in sorted(publishing)
        if not runs.is_live(job_id) and not _is_mixed(store, job_id)
    ]
    found += [
        (ClaimKeys(job_id=job_id).folder, "claim of a run that has ended")
        for job_id in store.list_folders(CLAIMS)
        if not runs.is_live(job_id)
    ]
    for run_id in sorted(runs.complete - runs.live):
        keys = RunKeys(run_id=run_id)
        found.append((keys.embeddings, "prompts of a run that is complete"))
        found.append((keys.control, "requests to a run that is complete"))
    counted = [Garbage(folder=folder, why=why, num_objects=len(store.list(folder))) for folder, why in found]
    return [item for item in counted if item.num_objects]


def remove(store: Store, garbage: Iterable[Garbage], watch: HolderWatch | None = None) -> int:
    """Remove what `find_garbage` found, and what dead writers left; the number of objects removed. A run that has
    started in the meantime keeps what it needs, because it is checked again. Give the same `watch`, or silent holders
    are waited for again."""
    wanted, removed = {item.folder for item in find_garbage(store, watch)}, 0
    for item in garbage:
        if item.folder not in wanted:
            continue
        name = item.folder.removeprefix(f"{WORK}/")
        if is_film(name):
            clean_work(store, name)
        else:
            store.delete_tree(item.folder)
        removed += item.num_objects
    return removed + store.sweep("", only=is_output_folder)


def left_by(store: Store, run_id: str, garbage: Iterable[Garbage]) -> list[Garbage]:
    """The garbage that is of one run: in its folder, or of the films that it rendered."""
    films = {
        film_key(job_id, row.render_key) for job_id, row in load_run_state(store, run_id).jobs.items() if row.render_key
    }
    own = {f"{WORK}/{film}" for film in films}
    return [
        item for item in garbage if item.folder in own or item.folder.startswith(f"{RunKeys(run_id=run_id).folder}/")
    ]


def _look_at_runs(store: Store, watch: HolderWatch) -> _Runs:
    ids = [run_id for run_id in store.list_folders(RUNS) if _is_run(run_id)]
    live = watch.held(store, ids)
    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        states = dict(zip(ids, pool.map(lambda run_id: load_run_state(store, run_id), ids), strict=True))
    needed, known, complete = set(), set(), set()
    for run_id, state in states.items():
        for job_id, row in state.jobs.items():
            if not row.render_key:
                continue
            known.add(film_key(job_id, row.render_key))
            if run_id in live or row.state != "done":
                needed.add(film_key(job_id, row.render_key))
        if state.jobs and all(row.state == "done" for row in state.jobs.values()):
            complete.add(run_id)
    return _Runs(
        live=frozenset(live),
        live_jobs=_jobs_of(store, live),
        needed=frozenset(needed),
        superseded=frozenset(known - needed),
        complete=frozenset(complete),
    )


def _jobs_of(store: Store, live: Iterable[str]) -> frozenset[str] | None:
    try:
        return frozenset(job_id for run_id in live for job_id in job_ids(store, run_id))
    except (NotFoundError, StorageError):  # it was only just taken on, and writes its manifest now
        return None


def _is_mixed(store: Store, job_id: str) -> bool:
    """Whether the files of a job that is done are not its own: the next start of its run finds that, and needs to."""
    done = read_done(store, job_id)
    return done is not None and not is_whole(store, done)


def _why_film_can_go(store: Store, film: str, runs: _Runs, publishing: Collection[str]) -> str:
    """The reason, or "" when it has to stay. Whoever is `publishing` a job may have to copy its film again."""
    job_id, render_key = split_film_key(film)
    if film in runs.needed or runs.is_live(job_id) or job_id in publishing:
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
