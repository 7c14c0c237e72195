"""Finds what an output tree no longer needs, and removes it after it was shown.

A film's work folder is kept as long as a run could continue from it: while its job is not published with these pixels
and some run's state still names it, and in any case while its job is in the manifest of a run that is being rendered.
What no run has ever heard of is kept, too. A run that is held, and has no manifest yet, is just starting: while it is,
nothing of any film goes. A holder that shows no sign for half a minute holds nothing, so that one that died elsewhere
keeps nobody from cleaning up.

Segments are shared by films. One is kept as long as a film that is done, or one whose work folder stays, consists of
it. None goes while a run is held, which may be about to find it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from render_farm.errors import NotFoundError, StorageError
from render_farm.farm.control.stored import job_ids
from render_farm.storage.checked_json import DamagedDocument
from render_farm.storage.checkpoints import latents_of, read_film_keys
from render_farm.storage.done import is_whole, read_done
from render_farm.storage.layout import (
    CLAIMS,
    PUBLISHING,
    RUNS,
    SEGMENTS,
    WORK,
    ClaimKeys,
    FilmKeys,
    RunKeys,
    film_key,
    is_film,
    is_job,
    is_output_folder,
    publishing_folder,
    segment_of,
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
    """One folder that can be removed, or some objects of it."""

    folder: str
    why: str
    num_objects: int
    keys: frozenset[str] = field(default=frozenset(), repr=False)
    """Only these objects; empty: all."""


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


def find_garbage(store: Store, watch: HolderWatch | None = None, *, of_done: bool = False) -> list[Garbage]:
    """What can be removed, in the order of the tree. Nothing is changed. `watch` tells runs that are held from those
    whose holder died. With `of_done` films that are done keep no segment: when their rows change, everything is
    rendered. StorageError passes."""
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
    going = {film for film, why in zip(films, reasons, strict=True) if why}
    unneeded = _unneeded_segments(store, runs, set(films) - going, of_done=of_done)
    if unneeded:
        why = "segments of films that are done, or of none" if of_done else "segments that no film consists of"
        counted.append(Garbage(folder=SEGMENTS, why=why, num_objects=len(unneeded), keys=unneeded))
    return [item for item in counted if item.num_objects]


def remove(store: Store, garbage: Iterable[Garbage], watch: HolderWatch | None = None, *, of_done: bool = False) -> int:
    """Remove what `find_garbage` found, and what dead writers left; the number of objects removed. A run that has
    started in the meantime keeps what it needs, because it is checked again. Give the same `watch`, or silent holders
    are waited for again, and the same `of_done`."""
    watch = watch or HolderWatch()
    wanted, removed = {item.folder: item for item in find_garbage(store, watch, of_done=of_done)}, 0
    for item in garbage:
        if item.folder not in wanted:
            continue
        name = item.folder.removeprefix(f"{WORK}/")
        if item.keys:
            removed += _remove_segments(store, item.keys & wanted[item.folder].keys, watch, of_done=of_done)
            continue
        if is_film(name):
            clean_work(store, name)
        else:
            store.delete_tree(item.folder)
        removed += item.num_objects
    return removed + store.sweep("", only=is_output_folder)


def _remove_segments(store: Store, keys: frozenset[str], watch: HolderWatch, *, of_done: bool) -> int:
    """Records go first. A run that began before they went may have found them: it holds its lease by then, and they are
    put back. One that begins later finds none."""
    records = {}
    for key in sorted(keys):
        if key.endswith(".json"):
            with suppress(NotFoundError):
                records[key] = store.read_bytes(key)
                store.delete(key)
    found = find_garbage(store, watch, of_done=of_done)
    going = keys & next((item.keys for item in found if item.folder == SEGMENTS), frozenset())
    needed = {segment_of(key) for key in keys - going - set(records)}
    for key in [key for key in records if segment_of(key) in needed]:
        store.create(key, records.pop(key))
    for key in going:
        store.delete(key)
    return len(records) + len(going)


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


def _unneeded_segments(store: Store, runs: _Runs, films: Collection[str], *, of_done: bool) -> frozenset[str]:
    """Objects of segments that none of `films`, whose work folders stay, and no finished job consists of; and latents
    that their segment's record does not name."""
    if runs.live:
        return frozenset()
    there: dict[str, set[str]] = {}
    for key in store.list(SEGMENTS):
        if (segment := segment_of(key)) is not None:
            there.setdefault(segment, set()).add(key)
    if not there:
        return frozenset()
    jobs = [] if of_done else [name for name in store.list_folders("") if not name.startswith("_")]
    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        try:
            chains = list(pool.map(lambda film: read_film_keys(store, film), films))
        except DamagedDocument:
            return frozenset()  # nobody can tell what that film needs
        named = {key for keys in pool.map(lambda job_id: _latents_of_done(store, job_id), jobs) for key in keys}
        needed = {segment for chain in chains for segment in chain} | {segment_of(key) for key in named}
        doubtful = [segment for segment in there if segment in needed and len(there[segment]) != 2]
        named |= set(pool.map(lambda segment: latents_of(store, segment), doubtful))
    unneeded = {key for segment, keys in there.items() if segment not in needed for key in keys}
    unneeded |= {key for segment in doubtful for key in there[segment] if key.endswith(".safetensors")} - named
    return frozenset(unneeded)


def _latents_of_done(store: Store, job_id: str) -> set[str]:
    """The objects that a finished job's segments are in."""
    done = read_done(store, job_id) if is_job(job_id) else None
    return {str(segment.get("key")) for segment in (done or {}).get("segments", ())}


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
