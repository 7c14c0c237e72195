"""`RenderWorker`: one Ray actor per GPU or CPU slot. Thin: all of its work is `FilmWorker`'s, which knows no Ray."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import ray

from render_farm.engine.options import EngineOptions
from render_farm.errors import HostUnfitError, StorageError
from render_farm.farm.ray_cluster.draining import usual_drain_s
from render_farm.farm.ray_cluster.environment import WorkerEnvironment
from render_farm.farm.ray_cluster.ray_metrics import RayMetrics
from render_farm.farm.run.film_task import FilmReport, FilmTask, SegmentReport
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.farm.worker.group_seat import GroupSeat
from render_farm.farm.worker.host_probe import probe_host
from render_farm.farm.worker.log import log_to_ray
from render_farm.farm.worker.metrics import WorkerMetrics
from render_farm.farm.worker.process_environment import set_environment
from render_farm.farm.worker.resident_model import load_libraries
from render_farm.farm.worker.signals import call_on_signal

if TYPE_CHECKING:
    from render_farm.engine.progress import StepProgress

_REPORT_EVERY_S = 0.25
_ALIVE_EVERY_S = 1.0
log = logging.getLogger(__name__)


@ray.remote(max_restarts=0, max_task_retries=0)
class RenderWorker:
    """Renders segments and finishes films. Calls run concurrently: one segment, finishing, and control."""

    def __init__(
        self,
        name: str,
        coordinator: Any,
        *,
        runs: str,
        device: str,
        dtype: str | None,
        num_threads: int | None,
        cache_folder: str | None,
        options: EngineOptions,
    ) -> None:
        self._name = name
        self._runs = runs
        self._coordinator = coordinator
        log_to_ray()
        set_environment()
        self._worker = FilmWorker(
            name,
            device=device,
            dtype=dtype,
            num_threads=num_threads,
            cache_folder=cache_folder,
            options=options,
            on_preview=lambda news: coordinator.previewed.remote(news),
            drain_s=usual_drain_s(),
        )
        self._metrics = WorkerMetrics(self._worker, RayMetrics())
        call_on_signal(signal.SIGTERM, self._on_sigterm)

    def __repr__(self) -> str:
        return f"{self._name} for {self._runs}"  # what Ray's dashboard lists the actor as

    def ready(self, environment: WorkerEnvironment, outputs: list[str]) -> dict[str, Any]:
        """Take the environment over and load what every job needs, and probe this machine meanwhile. Returns this
        process's id and node, and why the machine is `unfit` (None: it is not)."""
        environment.apply()
        with ThreadPoolExecutor(max_workers=1) as pool:
            probing = pool.submit(probe_host, outputs)
            load_libraries()
            error = probing.exception()
        unfit = error if isinstance(error, HostUnfitError | StorageError) else None
        return {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id(), "unfit": unfit}

    def probe(self, outputs: list[str]) -> None:
        """See `host_probe`."""
        probe_host(outputs)

    def open_group(self) -> Any:
        """See `FilmWorker.open_group`."""
        return self._worker.open_group()

    def end_group(self, rendezvous: Any) -> bool:
        """See `FilmWorker.end_group`."""
        return self._worker.end_group(rendezvous)

    def help_segment(self, task: FilmTask, segment: int, call_id: int, seat: GroupSeat) -> float:
        """See `FilmWorker.help_segment`."""
        return self._worker.help_segment(task, segment, call_id=call_id, seat=seat)

    def render_segment(
        self, task: FilmTask, segment: int, call_id: int, seat: GroupSeat | None = None
    ) -> SegmentReport:
        """See `FilmWorker.render_segment`. Steps are reported to the coordinator a few times a second."""
        last = 0.0
        log.info("run %s: segment %d of film %s starts", task.run_id, segment + 1, task.job_id)

        def on_step(progress: StepProgress) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _REPORT_EVERY_S or progress.step in (1, progress.num_steps):
                last = now
                self._coordinator.step_done.remote(call_id, progress.step, progress.num_steps)

        return self._worker.render_segment(
            task, segment, call_id=call_id, on_step=on_step, on_alive=self._tells_alive(call_id), seat=seat
        )

    def _tells_alive(self, call_id: int) -> Callable[[], None]:
        """What tells the coordinator about once a second that a call is at work, however often it is called."""
        last = 0.0

        def tell() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _ALIVE_EVERY_S:
                last = now
                self._coordinator.still_at_work.remote(call_id)

        return tell

    def finish_film(self, task: FilmTask, attempts: int, call_id: int) -> FilmReport:
        """See `FilmWorker.finish_film`. Progress is reported to the coordinator now and then."""
        log.info("run %s: film %s is being finished", task.run_id, task.job_id)
        return self._worker.finish_film(
            task, attempts=attempts, call_id=call_id, on_progress=self._tells_alive(call_id)
        )

    def stop(self, call_id: int, keep_steps: bool = False) -> None:
        """See `FilmWorker.stop`."""
        self._worker.stop(call_id, keep_steps=keep_steps)

    def preempt(self, within_s: float | None) -> None:
        """See `FilmWorker.preempt`."""
        self._worker.preempt(within_s)

    def _on_sigterm(self) -> None:
        self._worker.preempt()
        self._coordinator.on_sigterm.remote(self._name)

    def drop_films(self) -> None:
        """See `FilmWorker.drop_films`."""
        self._worker.drop_films()

    def close(self) -> None:
        """Drop all films. The actor may be killed afterwards."""
        self._metrics.close()
        self._worker.close()
