"""From stored segments to a published film: the rest of the decoding, the files, `job.json`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from render_farm.farm.run.film_task import FilmReport, FilmTask
from render_farm.farm.worker.film_document import film_document
from render_farm.farm.worker.resources import WorkerResources
from render_farm.storage.claims import Claim, claim_job
from render_farm.storage.done import read_done
from render_farm.storage.layout import LATENTS, POSTER, VIDEO, FilmKeys, JobKeys
from render_farm.storage.patience import StoreRetry
from render_farm.storage.publish import finish_publish, pending_commit, publish
from render_farm.storage.segments import worker_seconds
from render_farm.storage.store import Store

Phases = tuple[tuple[str, float], ...]


class FilmPublisher:
    """Finishes films. Several threads may each finish one."""

    def __init__(self, resources: WorkerResources) -> None:
        self._resources = resources

    def finish(self, task: FilmTask, *, attempts: int, on_progress: Callable[[], None] | None) -> FilmReport:
        """See `FilmWorker.finish_film`."""
        started = time.monotonic()
        store = self._resources.store(task)
        claim = claim_job(store, task.run_id, task.work_key)
        if _is_committed(store, task):
            job, phases = finish_publish(store, task.work_key, claim), Phases()
        else:
            job, phases = self._publish(store, task, claim, attempts, on_progress)
        store.delete_tree(FilmKeys(film=task.work_key).attempts)
        return FilmReport(
            uri=store.uri(JobKeys(job_id=task.job_id).video),
            sha256=job["sha256"],
            num_frames=int(job.get("num_frames", task.plan.num_frames)),
            render_s=sum(worker_seconds(segment) for segment in job.get("segments", ())),
            seconds=time.monotonic() - started,
            engine_s=self._resources.clock.total_s,
            phases=phases,
            seam_score=job.get("seam_score"),
        )

    def _publish(
        self, store: Store, task: FilmTask, claim: Claim, attempts: int, on_progress: Callable[[], None] | None
    ) -> tuple[dict[str, Any], Phases]:
        """`job.json` of the published film, and how long each part took."""
        films, model = self._resources.films, self._resources.model
        film = films.film(store, task)
        film.is_finishing = True
        try:
            films.check_segments(film, task.plan.num_segments, task)
            output = film.output
            if output is None or output.num_segments < task.plan.num_segments:
                output = self._resources.decoding.catch_up(model.engine(task.model), task, film)
            output.on_frame = on_progress
            rendered = output.finish(film.latents if task.keep_latents else None)
            document = film_document(task, film.state, rendered, attempts=attempts, device=model.device)
            if on_progress is not None:
                on_progress()
            attempt, upload_began = self._resources.new_attempt(), time.monotonic()
            published = StoreRetry(task.timeouts.cluster_patience_s)(
                lambda: publish(
                    store,
                    task.work_key,
                    attempt,
                    rendered.files,
                    document,
                    create_only=task.create_only,
                    claim=claim,
                )
            )
            return published.job, (*rendered.phases, ("upload", time.monotonic() - upload_began))
        finally:
            films.forget(task.work_key)


def _is_committed(store: Store, task: FilmTask) -> bool:
    """Whether a commit holds all that this film needs. Another one is withdrawn (its files were removed since, or it
    was made without the latents)."""
    pending = pending_commit(store, task.work_key)
    if pending is None:
        return False
    keys, names = JobKeys(job_id=task.job_id), {file.name for file in pending.files}
    done = read_done(store, task.job_id)
    is_published = done is not None and done.get("attempt") == pending.attempt
    wanted = {VIDEO, POSTER, *([LATENTS] if task.keep_latents else [])}
    if wanted <= names and not (is_published and not all(store.exists(keys.final(name)) for name in names)):
        return True
    if is_published:
        store.delete(keys.job)
    store.delete(FilmKeys(film=task.work_key).commit)
    return False
