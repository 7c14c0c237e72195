"""What a worker does, without Ray: renders segments, keeps their latents safe, and finishes films.

One model's weights are resident at a time. Films that were rendered here are kept with their decoder, so that each
segment is decoded beside the next one's denoising; a film that arrives from elsewhere is read from storage.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from render_farm.config import EngineOptions
from render_farm.errors import Cancelled, LeaseHeldError, PreemptedError
from render_farm.farm.run.film_task import FilmReport, FilmTask, PreviewNews, SegmentReport
from render_farm.farm.worker.busy_clock import BusyClock
from render_farm.farm.worker.film_cache import FilmCache, FilmHere
from render_farm.farm.worker.film_document import film_document
from render_farm.farm.worker.film_output import FilmOutput
from render_farm.farm.worker.film_preview import FilmPreview
from render_farm.farm.worker.group_decoding import SharedDecoding
from render_farm.farm.worker.group_seat import GroupSeat, in_group
from render_farm.farm.worker.preemption import LastStep, Preemption
from render_farm.farm.worker.segment_inputs import KnownTexts, conditioning_of, history_of
from render_farm.farm.worker.step_checkpoints import StepCheckpoints, environment_key
from render_farm.media.fitting import Fit
from render_farm.media.whole_video import read_video
from render_farm.planning.memory import FILMS_AT_ONCE
from render_farm.storage.checkpoints import (
    SegmentMeta,
    record_segment,
    save_segment,
)
from render_farm.storage.claims import claim_job
from render_farm.storage.layout import LATENTS, POSTER, VIDEO, JobKeys
from render_farm.storage.lease import HolderWatch
from render_farm.storage.meter import StorageMeter
from render_farm.storage.open import open_store
from render_farm.storage.patience import StoreRetry
from render_farm.storage.publish import clean_attempts, publish, resume_publish
from render_farm.storage.scratch import clear_abandoned
from render_farm.storage.segments import worker_seconds
from render_farm.storage.store import Store

if TYPE_CHECKING:
    from render_farm.engine import Engine
    from render_farm.engine.progress import StepProgress
    from render_farm.parallel import Rendezvous, RendezvousHost


class FilmWorker:
    """See the module. `render_segment` is called by one thread at a time; `finish_film` and `stop` from others."""

    def __init__(
        self,
        name: str,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        num_threads: int | None = None,
        cache_folder: str | None = None,
        options: EngineOptions | None = None,
        on_preview: Callable[[PreviewNews], None] | None = None,
    ) -> None:
        """`on_preview` is told of films that can be watched before they are finished, in a thread of the previews."""
        self.name = name
        self._on_preview = on_preview
        self._device = device
        self._dtype = dtype
        self._num_threads = num_threads
        self._cache_folder = Path(cache_folder) if cache_folder else None
        self._options = options
        self._notes: tuple[str, ...] = ()
        self._engine: Engine | None = None
        self._engine_model = ""
        self._engine_lock = threading.Lock()
        self._films = FilmCache()
        self._holders = HolderWatch()
        self._rendering = threading.Lock()
        self._group_host: RendezvousHost | None = None
        self._shared = SharedDecoding()
        self._stopped: set[int] = set()
        self._preemption = Preemption()
        self._clock = BusyClock()
        self.meter = StorageMeter()
        """What it moves from and to storage."""
        self.kv_cache_bytes = 0
        """What the segment in work keeps of finished blocks."""
        self._loading_s: float | None = None
        """What loading the model took, until a report has said so."""
        clear_abandoned()
        self._decoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._previewing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preview")
        self._texts = KnownTexts()

    # --- work ---

    def render_segment(
        self,
        task: FilmTask,
        segment: int,
        *,
        work: int = 0,
        on_step: Callable[[StepProgress], None] | None = None,
        place: GroupSeat | None = None,
    ) -> SegmentReport:
        """Render one segment, store its latents and record it; start decoding it.

        `work` is a number for `stop`, unique to this call. With a `place`, the others of the group call `help_segment`.
        Raises `CheckpointBehindError` when the segments before are not all there, `Cancelled` when stopped.
        """
        with self._rendering:
            try:
                return self._render_segment(task, segment, work, on_step, place)
            finally:
                self._close_group()

    def open_group(self) -> Rendezvous:
        """Where the group of the next segment meets; this worker is its rank 0."""
        from render_farm.parallel import RendezvousHost

        self._close_group()
        self._group_host = RendezvousHost()
        return self._group_host.rendezvous

    def end_group(self, rendezvous: Rendezvous) -> None:
        """One of the group will not come: if this worker still waits for it there, that ends with `GroupError`."""
        if self._group_host is not None and self._group_host.rendezvous == rendezvous:
            self._close_group()

    def _close_group(self) -> None:
        host, self._group_host = self._group_host, None
        if host is not None:
            host.close()

    def help_segment(self, task: FilmTask, segment: int, *, work: int, place: GroupSeat) -> float:
        """Compute this worker's share of a segment that rank 0 stores; `SegmentReport.engine_s`. Raises as
        `render_segment`, and `GroupError` when another worker of the group fails."""
        with self._rendering:
            self._check_goes_on(task)
            store = open_store(task.output, meter=self.meter)
            engine = self._load(task.model)
            try:
                film = self._films.begun(store, task, segment)
                is_last = self._last_step(task, segment)
                self._denoise(store, engine, task, film, segment, work=work, place=place, is_last=is_last)
                return self._clock.total_s
            finally:
                self._films.forget(task.film)  # what rank 0 stores is read when it is needed

    def _render_segment(
        self,
        task: FilmTask,
        segment: int,
        work: int,
        on_step: Callable[[StepProgress], None] | None,
        place: GroupSeat | None,
    ) -> SegmentReport:
        self._check_goes_on(task)
        store = open_store(task.output, meter=self.meter)
        engine = self._load(task.model)
        claim_job(store, task.run_id, task.film, self._holders)
        film = self._films.begun(store, task, segment)
        if len(film.latents) > segment:
            return SegmentReport(segment=segment, seconds=film.state.segments[segment].seconds)
        is_last = self._last_step(task, segment)
        keeper = StepCheckpoints(
            store,
            task.film,
            segment,
            every_s=task.step_checkpoint_s,
            maker=environment_key(engine, task.plan, segment),
            is_last=is_last,
        )
        started = time.monotonic()
        latents = self._denoise(
            store,
            engine,
            task,
            film,
            segment,
            work=work,
            place=place,
            is_last=is_last,
            keeper=keeper,
            on_step=on_step,
        )
        rendered = time.monotonic()
        seconds = rendered - started
        decisions = engine.decisions(task.plan, segment)
        meta = SegmentMeta(
            attempt=self._attempt(),
            seconds=round(seconds, 3),
            worker=self.name,
            engine=decisions,
            group_shape=place.shape.degrees if place is not None else (1, 1, 1),
        )
        patience = StoreRetry(task.patience_s, stopped=lambda: work in self._stopped)
        try:
            record = patience(lambda: save_segment(store, task.film, segment, latents, meta))
            film.state = patience(lambda: record_segment(store, film.state, record))
        except LeaseHeldError:
            # Somebody else went on with this film (a worker that was given up for dead): theirs is what counts.
            self._films.forget(task.film)
            film = self._films.film(store, task)
            self._films.check_begun(film, segment + 1, task)
            return SegmentReport(segment=segment, seconds=seconds, engine_s=self._clock.total_s)
        stored = time.monotonic()
        keeper.clear()
        film.latents.append(latents)
        if len(film.state.segments) > len(film.latents):  # it was damaged, and those after it hold still
            self._films.forget(task.film)
            film = self._films.film(store, task)
            self._films.check_begun(film, segment + 1, task)
        self._decode_begun(engine, task, film)
        loading_s, self._loading_s = self._loading_s, None
        return SegmentReport(
            segment=segment,
            seconds=seconds,
            loading_s=loading_s,
            engine_s=self._clock.total_s,
            phases=(("denoise", seconds), ("checkpoint", stored - rendered)),
            notes=(*keeper.notes, *self._news(engine.notes(task.plan, segment))),
        )

    def _denoise(
        self,
        store: Store,
        engine: Engine,
        task: FilmTask,
        film: FilmHere,
        segment: int,
        *,
        work: int,
        place: GroupSeat | None,
        is_last: LastStep,
        keeper: StepCheckpoints | None = None,
        on_step: Callable[[StepProgress], None] | None = None,
    ) -> np.ndarray:
        """The latents that a segment adds; alone, or with the others of the group, which may decode them too."""
        import torch

        from render_farm.parallel import GroupError

        self._shared.keep_only(task.film)
        history = history_of(film, task, segment)
        embeddings = self._texts.embeddings(store, task, engine.facts.fingerprint, segment)
        conditioning = conditioning_of(engine, task, film, segment)
        loras = engine.read_loras(task.plan, task.limits)
        if place is not None and place.rank == 0 and self._group_host is None:
            raise GroupError(f"film {task.film}: another worker of the group failed before it began")
        with in_group(place, engine, meeting_s=task.meeting_s) as group:
            is_last.begin()

            def step(progress: StepProgress) -> None:
                where = f"film {task.film}: stopped at step {progress.step} of {progress.num_steps}"
                is_stopped = work in self._stopped
                must_end = is_last(progress.step)
                goes_on = not is_stopped and not must_end
                if group is not None:  # all ranks stop at the same step: none waits for another
                    goes_on = group.all_agree(goes_on)
                if is_stopped:
                    self._stopped.discard(work)
                    raise Cancelled(where)
                if must_end:
                    raise PreemptedError(f"{where}, for this worker was asked to end")
                if not goes_on:
                    raise GroupError(f"{where}, for another worker of its group stops")
                self.kv_cache_bytes = progress.kv_cache_bytes
                if on_step is not None:
                    on_step(progress)

            with torch.inference_mode(), self._clock.busy():
                try:
                    latents = engine.render_segment(
                        task.plan,
                        segment,
                        history=history,
                        embeddings=embeddings,
                        conditioning=conditioning,
                        loras=loras,
                        group=group,
                        keeper=keeper if group is None else None,
                        on_step=step,
                    ).numpy()
                finally:
                    self.kv_cache_bytes = 0
                if group is not None:
                    film.output = self._shared.decode(
                        group,
                        engine,
                        task,
                        [*film.latents[:segment], latents],
                        film.output,
                        lambda: self._new_output(engine, task, is_shared=True),
                    )
            return latents

    def finish_film(
        self, task: FilmTask, *, attempts: int = 1, on_progress: Callable[[], None] | None = None
    ) -> FilmReport:
        """Decode what is left, write the MP4 and the poster, and publish the film. Idempotent.

        `on_progress` is called now and then while it goes on.
        """
        started = time.monotonic()
        store = open_store(task.output, meter=self.meter)
        phases: tuple[tuple[str, float], ...] = ()
        claim, attempt = claim_job(store, task.run_id, task.film, self._holders), self._attempt()
        wanted = (VIDEO, POSTER, *([LATENTS] if task.keep_latents else []))
        job = resume_publish(store, task.film, wanted, attempt, claim)
        if job is None:
            film = self._films.film(store, task)
            film.is_finishing = True
            try:
                self._films.check_begun(film, task.plan.num_segments, task)
                if film.output is None or film.output.num_segments < task.plan.num_segments:
                    self._decode_begun(self._load(task.model), task, film)
                assert film.output is not None
                film.output.on_frame = on_progress
                rendered = film.output.finish(film.latents if task.keep_latents else None)
                document = film_document(task, film.state, rendered, attempts=attempts, device=self._device)
                if on_progress is not None:
                    on_progress()
                upload_began = time.monotonic()
                patience = StoreRetry(task.patience_s)
                job = patience(
                    lambda: (
                        publish(
                            store,
                            task.film,
                            attempt,
                            rendered.files,
                            document,
                            create_only=task.create_only,
                            claim=claim,
                        ).job
                    )
                )
                phases = (*rendered.phases, ("upload", time.monotonic() - upload_began))
            finally:
                self._films.forget(task.film)
        clean_attempts(store, task.film, attempt)
        return FilmReport(
            uri=store.uri(JobKeys(job_id=task.job_id).video),
            sha256=job["sha256"],
            num_frames=int(job.get("num_frames", task.plan.num_frames)),
            video_bytes=int(job["files"][VIDEO]["num_bytes"]),
            render_s=sum(worker_seconds(segment) for segment in job.get("segments", ())),
            seconds=time.monotonic() - started,
            engine_s=self._clock.total_s,
            phases=phases,
            seam_score=job.get("seam_score"),
        )

    @property
    def engine_s(self) -> float:
        """How long it has been denoising or decoding so far."""
        return self._clock.total_s

    def stop(self, work: int) -> None:
        """Have the segment rendered under the number `work` end with `Cancelled` at its next step."""
        self._stopped.add(work)

    def preempt(self, within_s: float | None = None) -> None:
        """This process is to end within `within_s` (None: the task's grace time): its segment is completed when there
        is time for it, else it ends at its next step with `PreemptedError`, its steps stored. Nothing new is begun."""
        self._preemption.ask(within_s)

    def _check_goes_on(self, task: FilmTask) -> None:
        if self._preemption.is_asked:
            raise PreemptedError(f"film {task.film}: this worker was asked to end")

    def _last_step(self, task: FilmTask, segment: int) -> LastStep:
        return LastStep(self._preemption, task.plan.schedule(segment).num_rows, grace_s=task.grace_s)

    def drop_films(self) -> None:
        """Forget all films and remove their temporary files, and those of processes that were killed here."""
        self._films.forget_all()
        clear_abandoned()

    def close(self) -> None:
        """Drop all films; nothing is rendered afterwards."""
        self.drop_films()
        self._decoding.shutdown(wait=True)
        self._previewing.shutdown(wait=True)

    # --- parts ---

    def _load(self, model: str) -> Engine:
        from render_farm.engine import load_engine

        with self._engine_lock:
            if self._engine is None or self._engine_model != model:
                if self._num_threads:
                    import torch

                    torch.set_num_threads(self._num_threads)
                started = time.monotonic()
                self._engine = None
                self._texts = KnownTexts()
                self._engine = load_engine(
                    model,
                    device=self._device,
                    dtype=self._dtype,
                    with_text_encoder=False,
                    cache_folder=self._cache_folder,
                    options=self._options,
                    films_at_once=FILMS_AT_ONCE,
                )
                self._engine_model = model
                self._loading_s = time.monotonic() - started
            return self._engine

    def _decode_begun(self, engine: Engine, task: FilmTask, film: FilmHere) -> None:
        """Hand the decoder every segment it does not have yet; returns at once."""
        output = film.output
        if output is not None and output.is_shared and output.num_segments < len(film.latents):
            output.remove()  # this worker has not what it takes to go on where a group was
            output = None
        film.output = output = output or self._new_output(engine, task)
        for latents in film.latents[output.num_segments :]:
            output.push(latents)

    def _new_output(self, engine: Engine, task: FilmTask, *, is_shared: bool = False) -> FilmOutput:
        preview = self._preview(task) if task.previews and task.plan.num_segments > 1 else None
        return FilmOutput(engine, task.plan, self._decoding, self._clock, _lead_in(task), preview, is_shared=is_shared)

    def _preview(self, task: FilmTask) -> FilmPreview:
        def tell(num_segments: int, num_frames: int, problem: str) -> None:
            if self._on_preview is not None:
                self._on_preview(
                    PreviewNews(
                        output=task.output,
                        run_id=task.run_id,
                        job_id=task.job_id,
                        film=task.film,
                        num_segments=num_segments,
                        num_frames=num_frames,
                        problem=problem,
                    )
                )

        return FilmPreview(open_store(task.output, meter=self.meter), task.film, task.plan, self._previewing, tell)

    def _news(self, notes: tuple[str, ...]) -> tuple[str, ...]:
        """The notes that differ from those of this worker's last segment."""
        news = tuple(note for note in notes if note not in self._notes)
        self._notes = notes
        return news

    def _attempt(self) -> str:
        return f"{self.name}-{secrets.token_hex(6)}"


def _lead_in(task: FilmTask) -> Callable[[], Iterator[np.ndarray]] | None:
    """The frames of the video that a film extends; they come before its own."""
    job = task.plan.job
    if not job.video:
        return None
    return partial(
        read_video, job.video, width=job.width, height=job.height, fit=cast(Fit, job.fit), limits=task.limits
    )
