"""Films of a run that the output already holds, looked up all together: a big run must continue within seconds.

The run's own state says how far it was. A few listings say which final files, work folders and segments exist. Only
films that none of these settles are read one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import takewhile
from typing import Any

from render_farm.errors import NotFoundError
from render_farm.farm.driver.aside import as_done
from render_farm.farm.run.results import Result
from render_farm.farm.run.rows import result_of
from render_farm.planning import FilmPlan
from render_farm.planning.segment_keys import segment_keys
from render_farm.scheduling.states import State
from render_farm.storage.checkpoints import load_film_state, stored_segments
from render_farm.storage.done import has_sizes, read_done, verify_done
from render_farm.storage.layout import (
    JOB,
    LATENTS,
    POSTER,
    PUBLISHING,
    REPLACED,
    SEGMENTS,
    VIDEO,
    WORK,
    JobKeys,
    RunKeys,
    film_key,
    is_final_name,
)
from render_farm.storage.run_state import JobRow, StoredRun
from render_farm.storage.segments import seconds_of_job
from render_farm.storage.store import Store

_READS_AT_ONCE = 16
_FILES = (VIDEO, POSTER)


@dataclass(frozen=True, kw_only=True)
class ExistingFilm:
    """The part of one film that exists."""

    done: Result | None = None
    """It is complete and unchanged."""
    refused: str = ""
    """Why it is not rendered: the film that is there is of another manifest, or one of the two is a draft."""
    segments_done: int = 0


class ExistingOutput:
    """The output tree as one run sees it at its start."""

    def __init__(
        self,
        store: Store,
        state: StoredRun,
        *,
        keep_latents: bool,
        run_id: str = "",
        manifest: str | None = None,
        replace: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`manifest` is the name of this run's manifest, None for a run of a prompt. With `replace` its films take the
        place of those that runs of other manifests made. `check` is as in `aside`."""
        self._check = check
        self._manifests = ManifestNames(store, run_id, manifest)
        self._replaces = replace
        self._store = store
        self._state = state
        self._files = (*_FILES, LATENTS) if keep_latents else _FILES
        self._replaced: set[str] = set()
        """Jobs that another run may have published with other pixels since."""
        self._unsure: set[str] = set()
        """Jobs under whose final names somebody may have died while writing."""

    def look_up(self, plans: Sequence[FilmPlan]) -> list[ExistingFilm]:
        """What exists of each film, in order. StorageError passes."""
        keys = [JobKeys(job_id=plan.job.job_id) for plan in plans]
        sizes = self._store.sizes(key.final(name) for key in keys for name in (JOB, *self._files))
        finished = [all(key.final(name) in sizes for name in (JOB, *self._files)) for key in keys]
        self._unsure = {key.split("/")[-2] for key in self._store.list(PUBLISHING)}
        self._replaced = {key.rpartition("/")[2] for key in self._store.list(REPLACED)}
        has_job = [key.job in sizes for key in keys]
        rows = [self._row(plan) for plan in plans]
        unknown = [plan for plan, row in zip(plans, rows, strict=True) if row is None]
        folders = set(self._store.list_folders(WORK)) if unknown else set()
        stored = self._stored if SEGMENTS.rpartition("/")[2] in folders else frozenset()

        def find(film: tuple[FilmPlan, JobRow | None, bool, bool]) -> ExistingFilm:
            plan, row, is_finished, has_job = film
            if is_finished and (done := self._done(plan, row, sizes)) is not None:
                return ExistingFilm(done=done)
            if has_job and not self._replaces and (refused := self._refused(plan)):
                return ExistingFilm(refused=refused)
            if row is not None:
                return ExistingFilm(segments_done=min(row.segments_done, plan.num_segments))
            keys = segment_keys(plan.job, plan.spec, plan.windows if stored else ())
            num_stored = sum(1 for _ in takewhile(stored.__contains__, keys))
            work_key = film_key(plan.job.job_id, plan.render_key)
            if work_key in folders and not num_stored:  # it may have begun before segments had keys
                num_stored = len(load_film_state(self._store, work_key, plan.segment_keys).segments)
            return ExistingFilm(segments_done=min(num_stored, plan.num_segments))

        films = list(zip(plans, rows, finished, has_job, strict=True))
        found = dict(as_done(find, films, num_threads=_READS_AT_ONCE, check=self._check))
        return [found[number] for number in range(len(films))]

    @cached_property
    def _stored(self) -> frozenset[str]:
        """Listed once. Workers find what is stored later."""
        return stored_segments(self._store)

    def _row(self, plan: FilmPlan) -> JobRow | None:
        """What the run knew of this very film, and still holds."""
        row = self._state.jobs.get(plan.job.job_id)
        if row is None or row.render_key != plan.render_key:
            return None
        return None if row.state == State.DONE and plan.job.job_id in self._replaced else row

    def _refused(self, plan: FilmPlan) -> str:
        """Why the film that is there must not be replaced; "" when it may be, or is this very one."""
        job_id = plan.job.job_id
        done = read_done(self._store, job_id)
        if done is None or done["render_key"] == plan.render_key:
            return ""
        if bool(done.get("draft")) != bool(plan.draft_note):
            there, this = ("a draft", "film") if done.get("draft") else ("a film", "draft")
            return (
                f"job_id {job_id}: {self._store.uri(job_id)} holds {there} of that name, and this is a {this}. Another "
                "job_id or --output keeps both, and --replace renders this one in its place"
            )
        if self._manifests.is_ours(done.get("run_id")):
            return ""
        return (
            f"{self._store.uri(job_id)} holds a film of {self._manifests.described(str(done['run_id']))}, which was "
            "made from another manifest. --replace renders this one in its place; another --output or job_id keeps both"
        )

    def _done(self, plan: FilmPlan, row: JobRow | None, sizes: Mapping[str, int]) -> Result | None:
        job_id, video = plan.job.job_id, JobKeys(job_id=plan.job.job_id).video
        uri, video_bytes = self._store.uri(video), sizes[video]
        known = row if row is not None and row.state == State.DONE else None
        if known is not None and known.video_bytes == video_bytes and job_id not in self._unsure:
            return result_of(job_id, known, uri)
        done = read_done(self._store, job_id)
        if done is None or done["render_key"] != plan.render_key or not set(self._files) <= set(done["files"]):
            return None
        key = JobKeys(job_id=job_id)
        others = {key.final(name) for name in filter(is_final_name, done["files"])} - set(sizes)
        if others:  # latents that this run does not ask for, and files of a hook
            sizes = {**sizes, **self._store.sizes(sorted(others))}
        if not has_sizes(done, sizes) or (job_id in self._unsure and verify_done(self._store, job_id)):
            return None  # its worker copies it again from what was committed, or decodes it
        if known is not None:
            return replace(result_of(job_id, known, uri), video_bytes=video_bytes)
        return Result(
            job_id=job_id,
            state=State.DONE,
            message="was there already, unchanged",
            segments=plan.num_segments,
            frames=done.get("num_frames"),
            attempts=int(done.get("attempts", 0)),
            gpu_s=round(seconds_of_job(done, film_key(job_id, plan.render_key)), 3),
            uri=uri,
            sha256=done.get("sha256"),
            video_bytes=video_bytes,
            seam_score=done.get("seam_score"),
            reused_segments=done.get("reused_segments"),
            findings=tuple(done["findings"]) if "findings" in done else None,
            drift=done.get("drift"),
            seeds_tried=tuple(one["seed"] for one in done.get("seeds_tried", ())) or None,
        )


class ManifestNames:
    """Which runs of an output were made from a manifest of the same name. For several threads."""

    def __init__(self, store: Store, run_id: str, manifest: str | None) -> None:
        self._run_id = run_id
        self._name = _file_name(manifest)
        self._document = cache(lambda other: _run_document(store, other))

    def is_ours(self, run_id: object) -> bool:
        """Whether a film's run is this one, or of an earlier version of its manifest. A film that names no run is old,
        and nobody's."""
        if not isinstance(run_id, str) or not run_id or run_id == self._run_id:
            return True
        document = self._document(run_id)
        if document is None:  # its folder was removed: the default id begins with the manifest's name
            return run_id.rpartition("-")[0] == self._run_id.rpartition("-")[0]
        return self._name is not None and _file_name(document.get("manifest")) == self._name

    def described(self, run_id: str) -> str:
        """A run for people: its id, its manifest and when it began."""
        document = self._document(run_id) or {}
        facts = [str(document[name]) for name in ("manifest", "started_at") if document.get(name)]
        return f"run {run_id}" + (f" ({', '.join(facts)})" if facts else "")


def _file_name(manifest: object) -> str | None:
    return manifest.rstrip("/").rpartition("/")[2] if isinstance(manifest, str) and manifest else None


def _run_document(store: Store, run_id: str) -> dict[str, Any] | None:
    """`run.json` of a run; None where there is none that can be read."""
    try:
        content = json.loads(store.read_bytes(RunKeys(run_id=run_id).run))
    except (NotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
