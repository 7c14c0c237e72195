"""From stored segments to a published film: the rest of the decoding, the files, `job.json`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from render_farm.check_mode import CheckAction, parse_checks
from render_farm.errors import Cancelled, FilmRefusedError, FilmRejectedError, FindingsError
from render_farm.farm.run.film_task import FilmReport, FilmTask
from render_farm.farm.worker.films.film_document import film_document
from render_farm.farm.worker.films.film_hook import run_hook
from render_farm.farm.worker.films.film_output import RenderedFilm
from render_farm.farm.worker.resources import WorkerResources
from render_farm.media.provenance import marker_of
from render_farm.storage.claims import Claim, claim_job
from render_farm.storage.layout import LATENTS, POSTER, VIDEO, JobKeys
from render_farm.storage.patience import StoreRetry
from render_farm.storage.publish import clean_attempts, publish, resume_publish
from render_farm.storage.segments import own_seconds, seconds_of_job
from render_farm.storage.store import Store, content_type_for

Phases = tuple[tuple[str, float], ...]


class FilmPublisher:
    """Finishes films. Several threads may each finish one."""

    def __init__(self, resources: WorkerResources) -> None:
        self._resources = resources
        self._stopped: set[int] = set()

    def stop(self, call_id: int) -> None:
        """See `FilmWorker.stop`."""
        self._stopped.add(call_id)

    def finish(
        self, task: FilmTask, *, attempts: int, call_id: int = 0, on_progress: Callable[[], None] | None
    ) -> FilmReport:
        """See `FilmWorker.finish_film`."""
        started = time.monotonic()

        def go_on() -> None:
            if call_id in self._stopped:
                raise Cancelled(f"film {task.work_key}: stopped while it was being finished")
            if on_progress is not None:
                on_progress()

        try:
            return self._finish(task, attempts, call_id, go_on, started)
        finally:
            self._stopped.discard(call_id)

    def _finish(
        self, task: FilmTask, attempts: int, call_id: int, go_on: Callable[[], None], started: float
    ) -> FilmReport:
        store, attempt = self._resources.store(task), self._resources.new_attempt()
        claim = claim_job(store, task.run_id, task.work_key, self._resources.holders)
        wanted = (VIDEO, POSTER, *([LATENTS] if task.keep_latents else []))
        job, phases = resume_publish(store, task.work_key, wanted, attempt, claim), Phases()
        if job is None:
            job, phases = self._publish(store, task, claim, attempt, attempts, call_id, go_on)
        clean_attempts(store, task.work_key, attempt)
        return FilmReport(
            uri=store.uri(JobKeys(job_id=task.job_id).video),
            sha256=job["sha256"],
            num_frames=int(job.get("num_frames", task.plan.num_frames)),
            video_bytes=int(job["files"][VIDEO]["num_bytes"]),
            render_s=seconds_of_job(job, task.work_key),
            seconds=time.monotonic() - started,
            engine_s=self._resources.clock.total_s,
            phases=phases,
            seam_score=job.get("seam_score"),
            reused_segments=int(job.get("reused_segments", 0)),
            findings=tuple(job.get("findings", ())),
            drift=job.get("drift"),
            seeds_tried=tuple(one["seed"] for one in job.get("seeds_tried", ())),
        )

    def _judge(self, store: Store, task: FilmTask, rendered: RenderedFilm, seconds: float) -> None:
        """Raises `FindingsError` for a film with findings, where its job asks not to publish it.
        `seconds` is what its segments took.

        Of films that all have findings, the one with the fewest is published, the first of several: a finding may be
        wrong, or what the prompt asks for.
        """
        action, findings = parse_checks(task.plan.job.checks).action, rendered.findings
        if action is CheckAction.RETRY:
            is_best = task.ranked(findings)[0].seed == task.plan.job.seed
            if task.seeds_left < 0 or (task.seeds_left == 0 and is_best):
                return
        elif action is not CheckAction.FAIL:
            return
        poster = _keep_poster(store, task, rendered)
        found = f"found in its pictures: {', '.join(findings)} (frames counted from 0)"
        if action is CheckAction.RETRY:
            raise FilmRejectedError(
                found, findings=findings, seconds=seconds, segments_done=0 if task.seeds_left else None
            )
        raise FindingsError(
            found,
            findings=findings,
            advice=f"look at {poster}; another seed renders another film, checks: mark publishes this one, and "
            "the thresholds are the settings [checks]",
        )

    def _publish(
        self,
        store: Store,
        task: FilmTask,
        claim: Claim,
        attempt: str,
        attempts: int,
        call_id: int,
        go_on: Callable[[], None],
    ) -> tuple[dict[str, Any], Phases]:
        """`job.json` of the published film, and how long each part took."""
        films, model = self._resources.films, self._resources.model
        film = films.film(store, task)
        film.is_finishing = True
        try:
            films.check_segments(film, task.plan.num_segments, task)
            output = film.output
            if output is None or output.num_segments < task.plan.num_segments:
                output = self._resources.decoding.catch_up(model.engine(task), task, film)
            output.on_frame = go_on
            rendered = output.finish(film.latents if task.keep_latents else None)
            if rendered.findings:
                seconds = own_seconds((record.to_dict() for record in film.state.segments), task.work_key)
                self._judge(store, task, rendered, seconds)
            signer = _signed(task, rendered)
            document = film_document(task, film.state, rendered, attempts=attempts, device=model.device, signer=signer)
            files = dict(rendered.files)
            if task.hooks.on_film is not None:
                try:
                    answer = run_hook(task.hooks, files[VIDEO], document, files[VIDEO].parent / "hook", go_on)
                except FilmRefusedError:
                    _keep_poster(store, task, rendered)
                    raise
                document["findings"] += answer.findings
                document["extra_files"] = sorted(answer.files)
                files |= answer.files
            go_on()
            upload_began = time.monotonic()
            published = StoreRetry(task.timeouts.cluster_patience_s, stopped=lambda: call_id in self._stopped)(
                lambda: publish(
                    store,
                    task.work_key,
                    attempt,
                    files,
                    document,
                    create_only=task.create_only,
                    claim=claim,
                )
            )
            return published.job, (*rendered.phases, ("upload", time.monotonic() - upload_began))
        finally:
            films.forget(task)


def _keep_poster(store: Store, task: FilmTask, rendered: RenderedFilm) -> str:
    """Store the poster of a film that is not published, for the report, and return where it is."""
    key = JobKeys(job_id=task.job_id).rejected_poster(task.plan.job.seed)
    store.put_file(rendered.files[POSTER], key, content_type_for(POSTER))
    return store.uri(key)


def _signed(task: FilmTask, rendered: RenderedFilm) -> str | None:
    """Sign the film and its poster where the settings ask for it, and return who signs."""
    if not task.provenance.signs:
        return None
    from render_farm.media.signing import read_keys, sign

    keys, marker = read_keys(task.provenance), marker_of(task.plan)
    sign(rendered.files[POSTER], marker, keys)
    return sign(rendered.files[VIDEO], marker, keys)
