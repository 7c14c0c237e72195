"""Finds what an output tree no longer needs, and removes it after it was shown.

A film's work folder is kept as long as a run could continue from it: while its job is not published with these pixels
and some run's state still names it, and in any case while its job is in the manifest of a run that is being rendered.
What no run has ever heard of is kept, too. A run that is held, and has no manifest yet, is just starting: while it is,
nothing of any film goes. A holder that shows no sign for half a minute holds nothing, so that one that died elsewhere
keeps nobody from cleaning up.

Segments are shared by films. One is kept as long as a film that is done, or one whose work folder stays, consists of
it or may come back to it. None goes while a run is held, which may be about to find it.

A run may start or end at any moment. It holds its lease before it looks for anything. So `remove` takes away first what
says that segments are there: the lists of films, and the records. Then it looks again and puts back what is needed by
now. A run that starts later finds only what stays, and the rest can go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from render_farm.errors import NotFoundError, StorageError
from render_farm.farm.control.stored import job_ids
from render_farm.storage.checked_json import DamagedDocument
from render_farm.storage.checkpoints import latents_of, read_film_keys
from render_farm.storage.done import is_whole, read_done
from render_farm.storage.layout import (
    CLAIMS,
    COMMIT,
    PUBLISHING,
    RUNS,
    SEGMENTS,
    WORK,
    ClaimKeys,
    FilmKeys,
    RunKeys,
    film_key,
    film_of_manifest,
    is_film,
    is_job,
    is_output_folder,
    publishing_folder,
    segment_of,
    split_film_key,
)
from render_farm.storage.lease import HolderWatch
from render_farm.storage.probe import is_old_probe
from render_farm.storage.run_state import load_run_state
from render_farm.storage.store import Store

_REQUESTS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Objects of one folder that can be removed."""

    folder: str
    why: str
    keys: frozenset[str]

    @property
    def num_objects(self) -> int:
        return len(self.keys)


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
    return _look(store, watch or HolderWatch(), {}, of_done=of_done)


def remove(store: Store, garbage: Iterable[Garbage], watch: HolderWatch | None = None, *, of_done: bool = False) -> int:
    """Remove what `find_garbage` found, and what dead writers left; the number of objects removed. A run that has
    started in the meantime, or starts now, keeps what it needs. Give the same `watch`, or silent holders are waited for
    again, and the same `of_done`."""
    watch = watch or HolderWatch()
    garbage = list(garbage)
    wanted = _keys(garbage) & _keys(_look(store, watch, {}, of_done=of_done))
    taken: dict[str, bytes] = {}

    def take(key: str) -> None:
        with suppress(NotFoundError):
            taken[key] = store.read_bytes(key)
            store.delete(key)

    try:
        _all_at_once(take, filter(_says_what_is_there, wanted))
        still = _keys(_look(store, watch, taken, of_done=of_done))
    except BaseException:
        _put_back(store, taken, lambda key: True)
        raise
    # What is there again under such a name was created since.
    going = {key for key in wanted & still if not _says_what_is_there(key)}
    commits = {key for key in going if key.endswith(f"/{COMMIT}")}
    _all_at_once(store.delete, going - commits)
    _all_at_once(store.delete, commits)  # last: a late attempt still meets the commit
    for item in garbage:
        store.prune(item.folder)
    return len(taken) + len(going) + store.sweep("", only=is_output_folder)


def _all_at_once(change: Callable[[str], None], keys: Iterable[str]) -> None:
    with ThreadPoolExecutor(max_workers=_REQUESTS_AT_ONCE) as pool:
        list(pool.map(change, sorted(keys)))


def _keys(garbage: Iterable[Garbage]) -> frozenset[str]:
    return frozenset(key for item in garbage for key in item.keys)


def _says_what_is_there(key: str) -> bool:
    return film_of_manifest(key) is not None or (segment_of(key) is not None and key.endswith(".json"))


def _put_back(store: Store, taken: dict[str, bytes], is_needed: Callable[[str], bool]) -> None:
    for key in [key for key in taken if is_needed(key)]:
        store.create(key, taken[key])
        del taken[key]


def _look(store: Store, watch: HolderWatch, taken: dict[str, bytes], *, of_done: bool) -> list[Garbage]:
    """What can be removed now. `taken` are objects that have been taken away: those that are needed now are put back,
    and leave it."""
    runs = _look_at_runs(store, watch)
    folders = store.list_folders(WORK)
    films = sorted({name for name in folders if is_film(name)} | {film_of_manifest(key) or "" for key in taken} - {""})
    publishing = {key.split("/")[-2] for key in store.list(PUBLISHING)}
    with ThreadPoolExecutor(max_workers=_REQUESTS_AT_ONCE) as pool:
        reasons = list(pool.map(lambda film: _why_film_can_go(store, film, runs, publishing), films))
    staying = {film for film, why in zip(films, reasons, strict=True) if not why}
    _put_back(store, taken, lambda key: film_of_manifest(key) in staying)
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
    listed = [Garbage(folder=folder, why=why, keys=frozenset(store.list(folder))) for folder, why in found]
    unneeded = _unneeded_segments(store, runs, staying, taken, of_done=of_done)
    why = "segments of films that are done, or of none" if of_done else "segments that no film consists of"
    return [item for item in (*listed, Garbage(folder=SEGMENTS, why=why, keys=unneeded)) if item.keys]


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
    with ThreadPoolExecutor(max_workers=_REQUESTS_AT_ONCE) as pool:
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


def _unneeded_segments(
    store: Store, runs: _Runs, films: Collection[str], taken: dict[str, bytes], *, of_done: bool
) -> frozenset[str]:
    """Objects of segments that none of `films`, whose work folders stay, and no finished job consists of; and latents
    that their segment's record does not name. For `taken` see `_look`."""
    there: dict[str, set[str]] = {}
    for key in () if runs.live else (*store.list(SEGMENTS), *taken):
        if (segment := segment_of(key)) is not None:
            there.setdefault(segment, set()).add(key)
    jobs = store.list_folders("") if there and not of_done else []
    with ThreadPoolExecutor(max_workers=_REQUESTS_AT_ONCE) as pool:
        try:
            chains = list(pool.map(lambda film: read_film_keys(store, film, with_others=True), films)) if there else []
        except DamagedDocument:
            there = {}  # nobody can tell what that film needs
        if not there:
            _put_back(store, taken, lambda key: segment_of(key) is not None)
            return frozenset()
        named = {key for keys in pool.map(lambda job_id: _latents_of_done(store, job_id), jobs) for key in keys}
        needed = {segment for chain in chains for segment in chain} | {segment_of(key) for key in named}
        needed.discard(None)
        _put_back(store, taken, lambda key: segment_of(key) in needed)
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
