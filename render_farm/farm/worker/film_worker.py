"""What a worker does, without Ray: renders segments, keeps their latents safe, and finishes films.

One model's weights are resident at a time. Films that were rendered here are kept with their decoder, so that each
segment is decoded while the next one is denoised. A film that arrives from another worker is read from storage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from render_farm.engine.options import EngineOptions
from render_farm.farm.run.film_task import FilmReport, FilmTask, PreviewNews, SegmentReport
from render_farm.farm.worker.busy_clock import BusyClock
from render_farm.farm.worker.films.background_decoding import BackgroundDecoding
from render_farm.farm.worker.films.film_cache import FilmCache
from render_farm.farm.worker.films.film_publisher import FilmPublisher
from render_farm.farm.worker.group_seat import GroupSeat
from render_farm.farm.worker.resident_model import ResidentModel
from render_farm.farm.worker.resources import WorkerResources
from render_farm.farm.worker.segment_renderer import SegmentCall, SegmentRenderer
from render_farm.storage.meter import StorageMeter
from render_farm.storage.scratch import clear_abandoned

if TYPE_CHECKING:
    from render_farm.engine.progress import StepProgress
    from render_farm.parallel import Rendezvous


class FilmWorker:
    """See the module. `render_segment` is called by one thread at a time, `finish_film` and `stop` by others."""

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
        drain_s: float | None = None,
    ) -> None:
        """`on_preview` is called in the previews' thread, for films that can be watched before they are finished.
        `drain_s` is what this machine leaves its workers when it is drained, if that is known."""
        clear_abandoned()
        self.name = name
        self.meter = StorageMeter()
        """Traffic with stores."""
        self._clock = BusyClock()
        self._films = FilmCache()
        self._decoding = BackgroundDecoding(self._clock, self.meter, on_preview)
        self._model = ResidentModel(
            device=device, dtype=dtype, num_threads=num_threads, cache_folder=cache_folder, options=options
        )
        resources = WorkerResources(
            name=name,
            model=self._model,
            films=self._films,
            decoding=self._decoding,
            clock=self._clock,
            meter=self.meter,
        )
        self._renderer = SegmentRenderer(resources, drain_s=drain_s)
        self._publisher = FilmPublisher(resources)

    def render_segment(
        self,
        task: FilmTask,
        segment: int,
        *,
        call_id: int = 0,
        on_step: Callable[[StepProgress], None] | None = None,
        on_alive: Callable[[], None] | None = None,
        seat: GroupSeat | None = None,
    ) -> SegmentReport:
        """Render one segment, store its latents, record it, and start decoding it.

        Args:
            call_id: A number for `stop`, unique to this call.
            on_alive: Called now and then while the model's files are fetched, from several threads.
            seat: This worker's in a render group. The others of the group call `help_segment`.

        Raises:
            CheckpointBehindError: The segments before it are not all in storage.
            Cancelled: The call was stopped.
            PreemptedError: This worker was asked to end.
        """
        return self._renderer.render(
            SegmentCall(task=task, segment=segment, call_id=call_id, seat=seat, on_step=on_step, on_alive=on_alive)
        )

    def help_segment(self, task: FilmTask, segment: int, *, call_id: int, seat: GroupSeat) -> float:
        """Compute this worker's share of a segment that rank 0 stores. Returns `SegmentReport.engine_s`. Raises as
        `render_segment`, and `GroupError` when another worker of the group fails."""
        return self._renderer.help(SegmentCall(task=task, segment=segment, call_id=call_id, seat=seat))

    def open_group(self) -> Rendezvous:
        """Where the group of the next segment meets. This worker is its rank 0."""
        return self._renderer.groups.open()

    def end_group(self, rendezvous: Rendezvous) -> bool:
        """One of the group failed or will not come. What waits for it here ends with `GroupError`. Returns whether this
        worker is still in the group that met there."""
        return self._renderer.groups.end(rendezvous)

    def finish_film(
        self,
        task: FilmTask,
        *,
        attempts: int = 1,
        call_id: int = 0,
        on_progress: Callable[[], None] | None = None,
    ) -> FilmReport:
        """Decode what is left, write the MP4 and the poster, and publish the film. Idempotent.

        `on_progress` is called now and then while that takes its time. `call_id` is as in `render_segment`, and
        `Cancelled` is raised as there, unless the film is being uploaded already.
        """
        return self._publisher.finish(task, attempts=attempts, call_id=call_id, on_progress=on_progress)

    @property
    def engine_s(self) -> float:
        """Seconds of denoising or decoding so far."""
        return self._clock.total_s

    @property
    def kv_cache_bytes(self) -> int:
        """Size of the key/value cache of the segment that is being rendered."""
        return self._renderer.kv_cache_bytes

    def stop(self, call_id: int, *, keep_steps: bool = False) -> None:
        """Have the call `call_id` end with `Cancelled`: a segment at its next step, a film that is being finished at
        its next frame. With `keep_steps` the state of a segment's steps is stored first, and a segment whose last step
        that is, is completed."""
        self._renderer.stop(call_id, keep_steps=keep_steps)
        self._publisher.stop(call_id)

    def preempt(self, within_s: float | None = None) -> None:
        """This process has to end within `within_s` (None: the task's grace time). Its segment is completed when there
        is time for that. Otherwise it ends at its next step with `PreemptedError`, its steps stored. Nothing new is
        started."""
        self._renderer.preemption.ask(within_s)

    def drop_films(self) -> None:
        """Forget all films and remove their temporary files, and those of processes that were killed here."""
        self._films.forget_all()
        clear_abandoned()

    def close(self) -> None:
        """Drop all films. Nothing is rendered afterwards."""
        self.drop_films()
        self._renderer.close()
        self._decoding.close()
