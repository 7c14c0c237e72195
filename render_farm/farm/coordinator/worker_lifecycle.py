"""The life of the workers: up, lost, silent, or released because nothing is left to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from render_farm.errors import Fault
from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.failures import classify, died
from render_farm.farm.coordinator.hang_watch import HangWatch
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.coordinator.worker_pool import WorkerPool
from render_farm.farm.ray_cluster.autoscaler import scaler_of
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.farm.run.spec import FarmConfig
from render_farm.observability.events import EventKind
from render_farm.scheduling import events as ev
from render_farm.scheduling.retry import Failure

_SLOT_EVERY_S = 0.5


class WorkerLifecycle:
    """See the module."""

    def __init__(self, config: FarmConfig, events: EventLoop, active: ActiveRuns, metrics: FarmMetrics) -> None:
        self.pool = WorkerPool(
            config,
            on_up=self._up,
            on_start_failed=self._start_failed,
            on_unfit=self.unfit,
            on_cannot_start=active.stop_all,
            work_for=self._work_for,
            outputs=lambda: sorted({run.progress.spec.output for run in self._active.at_work}),
        )
        self.watch = HangWatch(config.timeouts)
        self._use(config)
        self._events = events
        self._machine = events.machine
        self._active = active
        self._metrics = metrics
        self._idle_since_s = 0.0
        """When the last run ended."""
        self._emptied: set[str] = set()
        """Workers that have dropped their films since then."""

    def _use(self, config: FarmConfig) -> None:
        self.config = config
        self.scaler = scaler_of(config)
        """None on a cluster of a fixed size."""
        self.pool.limit = None if self.scaler is None else 0  # until the cluster has been looked at

    async def reconfigure(self, config: FarmConfig) -> bool:
        """Replace the workers by others, unless a run needs the present ones: False then."""
        if not self._active.anything_left:
            await asyncio.gather(*(self.release(worker) for worker in self._machine.idle_workers))
        if self._active.anything_left or self._machine.workers:
            return False
        self._use(config)
        self.pool.reconfigure(config)
        self.watch.timeouts = config.timeouts
        return True

    def grow(self, config: FarmConfig) -> None:
        """Have as many workers as another run asks for alongside those at work, where each may run anywhere."""
        if self.config.bundle_size == config.bundle_size == 1 and config.num_workers > self.config.num_workers:
            self.config = replace(self.config, num_workers=config.num_workers)
            self.pool.grow(self.config)

    def start(self) -> None:
        """Have all workers, while something is left to render."""
        if self._active.anything_left:
            self.pool.start()

    def show(self, run: OwnedRun) -> None:
        """Note in a run's log which workers are up already."""
        for worker in self._machine.workers:
            _log_up(run, worker)

    def _work_for(self) -> str:
        """The runs that are not over, for people who look at Ray's dashboard."""
        return ", ".join(run.run_id for run in self._active.at_work)

    # --- coming ---

    def _up(self, worker: str, host: str) -> None:
        for run in self._active.at_work:
            _log_up(run, worker)
        self._events.apply(ev.WorkerUp(worker=worker, host=host))
        if not self._active.anything_left and time.monotonic() >= self.kept_until_s:
            self._events.spawn(self.release(worker))

    def _start_failed(self, host: str, reason: str) -> None:
        place = f" on host {host}" if host else ""
        for run in self._active.at_work:
            run.progress.log.add(f"a worker could not be started{place}: {reason}", level="warning")
        if host:
            failure = Failure(fault=Fault.WORKER, error_class="StartFailed", message=reason)
            self._events.apply(ev.StartFailed(host=host, failure=failure))

    def unfit(self, host: str, error: BaseException) -> None:
        """The probe of a worker says that its host cannot do its work: no film is to blame."""
        for run in self._active.at_work:
            run.progress.log.add(f"host {host} is not fit for work: {error}", level="warning")
        self._events.apply(ev.StartFailed(host=host, failure=classify(error, worker="that is probed")))

    # --- going ---

    def lost(self, worker: str, error: BaseException) -> None:
        """A worker's process ended by itself."""
        if not self.pool.forget(worker, kill=True):  # Ray also says so of one that it merely cannot reach
            return
        failure = died(worker, error)
        self._log_ended(
            worker, f"worker {worker} ended ({failure.error_class}); a fresh one is started", level="warning"
        )
        self._metrics.failed(failure)
        self._events.apply(ev.WorkerLost(worker=worker, failure=failure))
        self.start()

    async def release(self, worker: str) -> None:
        """End an idle worker."""
        self._log_ended(worker, f"worker {worker} is released", level="debug")
        self._events.apply(ev.WorkerLost(worker=worker, failure=died(worker)))
        await self.pool.end(worker)

    async def on_idle(self) -> None:
        """Nothing is left to render: give the devices back, now or after a while. The next run starts new workers."""
        self._idle_since_s = time.monotonic()
        self._emptied.clear()
        if self.config.timeouts.keep_workers_s > 0:
            await asyncio.gather(*self._empty_idle())
            return  # `release_unneeded` sees to the rest
        if self.scaler is not None:
            await self.scaler.ask_for_nothing()
        await asyncio.gather(*(self.release(worker) for worker in self._machine.idle_workers))
        self.start()  # for a run that was added in between

    def release_unneeded(self, now: float) -> None:
        """Release the workers that have become idle since nothing is left to render, or have them drop their films: a
        run that was cancelled ends before those of its workers that are within a step."""
        if self._active.anything_left:
            return
        if now < self.kept_until_s:
            for dropping in self._empty_idle():
                self._events.spawn(dropping)
            return
        if self.scaler is not None and self.scaler.num_asked:
            self._events.spawn(self.scaler.ask_for_nothing())
        self.pool.stop_starting()
        for worker in self._machine.idle_workers:
            self._events.spawn(self.release(worker))

    def _empty_idle(self) -> list[Coroutine[Any, Any, None]]:
        workers = [worker for worker in self._machine.idle_workers if worker not in self._emptied]
        self._emptied.update(workers)
        return [self.pool.drop_films(worker) for worker in workers]

    @property
    def kept_until_s(self) -> float:
        """The time until which workers stay up although nothing is left to render."""
        return self._idle_since_s + self.config.timeouts.keep_workers_s

    @property
    def expected(self) -> str:
        """How many workers there are to be, for people."""
        number = self.config.num_workers
        return self.scaler.note if self.scaler is not None else f"{number} worker{'' if number == 1 else 's'}"

    async def free_slot(self) -> None:
        """Release an idle worker when all slots are taken."""
        # On a cluster that has no GPU yet, the encoder is the first to ask for one.
        slots = self.config.num_workers if self.scaler is None else max(1, self.scaler.num_there)
        while self.pool.num_slots_taken >= slots:
            if self._machine.idle_workers:
                await self.release(self._machine.idle_workers[0])
            else:
                await asyncio.sleep(_SLOT_EVERY_S)

    def end_silent(self, now: float) -> None:
        """Kill workers that stopped reporting progress."""
        for call, problem in self.watch.silent(now):
            if self.pool.has(call.worker):
                self._active.runs[call.film.run].progress.log.add(
                    f"worker {call.worker} {problem}; it is killed", job_id=call.film.job_id, level="warning"
                )
                self.pool.kill(call.worker)

    # --- the log ---

    def _log_ended(self, worker: str, text: str, *, level: str) -> None:
        for run in self._active.at_work:
            run.progress.log.add(text, level=level, kind=EventKind.WORKER_ENDED, worker=worker)


def _log_up(run: OwnedRun, worker: str) -> None:
    run.progress.log.add(f"worker {worker} is up", level="debug", kind=EventKind.WORKER_UP, worker=worker)
