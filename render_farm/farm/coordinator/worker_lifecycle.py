"""The workers' comings and goings: who is up, lost, silent, told to end, or let go because nothing is left to do."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import ray

from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.failures import died
from render_farm.farm.coordinator.hang_watch import HangWatch
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.coordinator.worker_pool import WorkerPool
from render_farm.farm.ray_cluster.autoscaler import ClusterScaler, scaler_of
from render_farm.farm.ray_cluster.draining import DrainWatch, draining_nodes
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.farm.run.spec import FarmShape
from render_farm.observability.events import EventKind
from render_farm.scheduling import events as ev
from render_farm.scheduling.scaling import Present, to_release

_PLACE_EVERY_S = 0.5
_DRAINS_EVERY_S = 2.0


class WorkerLifecycle:
    """See the module."""

    def __init__(
        self,
        shape: FarmShape,
        dispatch: EventLoop,
        keeper: ActiveRuns,
        metrics: FarmMetrics,
        *,
        on_not_needed: Callable[[], None],
    ) -> None:
        """`on_not_needed` is called when nothing is left to render and the node of this process is told to go."""
        self.shape = shape
        self.pool = WorkerPool(shape, on_up=self._up, on_cannot_start=keeper.stop_all, work_for=self._work_for)
        self.watch = HangWatch(shape.timeouts)
        self._scaler = scaler_of(shape)
        self.pool.limit = None if self._scaler is None else 0  # until the cluster has been looked at
        self._dispatch = dispatch
        self._machine = dispatch.machine
        self._keeper = keeper
        self._metrics = metrics
        self._drains = DrainWatch()
        self._leaving: set[str] = set()
        """Workers that were asked to end, or whose node is: they go as soon as they have no work."""
        self._drains_looked_s = 0.0
        self._on_not_needed = on_not_needed
        self._idle_since_s = 0.0
        """When the last run ended."""

    async def adopt(self, shape: FarmShape) -> bool:
        """Have workers of another shape, when no run needs the present ones; False when one does."""
        if not self._keeper.anything_left:
            await asyncio.gather(*(self.let_go(worker) for worker in self._machine.idle_workers))
        if self._keeper.anything_left or self._machine.workers:
            return False
        self.shape = shape
        self.pool.adopt(shape)
        self._scaler = scaler_of(shape)
        self.pool.limit = None if self._scaler is None else 0
        self.watch.timeouts = shape.timeouts
        return True

    def grow(self, shape: FarmShape) -> None:
        """Have as many workers as another run asks for beside those at work, where any place will do for each."""
        if self.shape.bundle_size == shape.bundle_size == 1 and shape.num_workers > self.shape.num_workers:
            self.shape = replace(self.shape, num_workers=shape.num_workers)
            self.pool.grow(self.shape)

    def start(self) -> None:
        """Have all workers, while something is left to render."""
        if self._keeper.anything_left:
            self.pool.start()

    def show(self, run: OwnedRun) -> None:
        """Tell a run's log who is up already."""
        for worker in self._machine.workers:
            _log_up(run, worker)

    def _work_for(self) -> str:
        """The runs that are not over, for people who look at Ray's dashboard."""
        return ", ".join(run.run_id for run in self._keeper.at_work)

    # --- coming ---

    def _up(self, worker: str, host: str) -> None:
        for run in self._keeper.at_work:
            _log_up(run, worker)
        self._dispatch.apply(ev.WorkerUp(worker=worker, host=host))
        if not self._keeper.anything_left and time.monotonic() >= self._kept_until_s:
            self._dispatch.spawn(self.let_go(worker))

    # --- going ---

    def lost(self, worker: str, error: BaseException) -> None:
        """A worker's process ended by itself."""
        if not self.pool.forget(worker, kill=True):  # Ray also says so of one that it merely cannot reach
            return
        self._log_ended(worker, f"worker {worker} ended; a fresh one is started", level="warning")
        failure = died(worker, error)
        self._metrics.failed(failure)
        self._dispatch.apply(ev.WorkerLost(worker=worker, failure=failure))
        self.start()

    async def let_go(self, worker: str) -> None:
        """End an idle worker."""
        self._log_ended(worker, f"worker {worker} is let go", level="debug")
        self._dispatch.apply(ev.WorkerLost(worker=worker, failure=died(worker)))
        await self.pool.end(worker)

    async def on_idle(self) -> None:
        """Nothing is left to render: give the devices back, at once or after a while. The next run starts them anew."""
        self._idle_since_s = time.monotonic()
        if self.shape.timeouts.keep_workers_s > 0:
            await asyncio.gather(*(self.pool.drop_films(worker) for worker in self._machine.idle_workers))
            await asyncio.sleep(self.shape.timeouts.keep_workers_s)
            if self._keeper.anything_left or time.monotonic() < self._kept_until_s:
                return
        if self._scaler is not None:
            await self._scaler.ask_for_nothing()
        await asyncio.gather(*(self.let_go(worker) for worker in self._machine.idle_workers))
        self.start()  # a run that was added meanwhile

    @property
    def _kept_until_s(self) -> float:
        return self._idle_since_s + self.shape.timeouts.keep_workers_s

    async def free_slot(self) -> None:
        """Let an idle worker go, when all places are taken."""
        # On a cluster that has no GPU yet, the encoder is the first to ask for one.
        places = self.shape.num_workers if self._scaler is None else max(1, self._scaler.num_there)
        while self.pool.num_places_taken >= places:
            if self._machine.idle_workers:
                await self.let_go(self._machine.idle_workers[0])
            else:
                await asyncio.sleep(_PLACE_EVERY_S)

    # --- as many as the plan needs ---

    @property
    def expected(self) -> str:
        """How many workers there are to be, for people."""
        return self._scaler.note if self._scaler is not None else f"{self.shape.num_workers} workers"

    def scale(self, now: float) -> None:
        """Now and then have as many workers as films can use, on a cluster that grows."""
        scaler = self._scaler
        if scaler is None or not (self._keeper.anything_left or (scaler.num_asked and now >= self._kept_until_s)):
            return
        if scaler.due(now):
            self._dispatch.spawn(self._scale(scaler))

    async def _scale(self, scaler: ClusterScaler) -> None:
        """Ask the cluster for what films can use and limits allow, start workers on what is there, let others go."""
        at_work = [run for run in self._keeper.at_work if self._machine.has_run(run.key)]
        films: Counter[tuple[int, int]] = Counter()
        for run in at_work:
            films.update(self._machine.unfinished(run.key, begun_only=run.control.paused))
        asked = scaler.num_asked
        cost = await scaler.look()
        for run in at_work:
            run.spent += cost
        decision = await scaler.ask(
            films,
            num_places=self.shape.num_workers,
            bundle_size=self.shape.bundle_size,
            spent=max((run.spent for run in at_work), default=0.0),
        )
        if decision.num_workers != asked:
            for run in at_work:
                run.record.log.add(f"{scaler.note}: {decision.reason}")
        if decision.stop:
            self._keeper.stop_all(decision.reason)
            return
        self.pool.limit = min(decision.num_workers, scaler.num_there)
        idle = set(self._machine.idle_workers)
        present = [
            Present(name=worker, host=self.pool.nodes.get(worker, ""), is_idle=worker in idle)
            for worker in self._machine.workers
        ]
        for worker in to_release(present, decision.num_workers):
            if worker in self._machine.idle_workers:  # still, after the one before it went
                await self.let_go(worker)
        if self.shape.device != "cuda" or not any(run.encoding for run in at_work):
            self.start()

    # --- told to end ---

    def end_silent(self, now: float) -> None:
        """End the processes of workers that have given no sign of life for far too long."""
        for work, doing in self.watch.silent(now):
            if self.pool.has(work.worker):
                self._keeper.runs[work.film.run].record.log.add(
                    f"worker {work.worker} {doing}; it is ended", job_id=work.film.job_id, level="warning"
                )
                self.pool.kill(work.worker)

    async def on_sigterm(self, worker: str) -> None:
        """Let a worker that got a SIGTERM go, as soon as it has no work."""
        self._leaving.add(worker)
        await self._let_leaving_go()

    async def _let_leaving_go(self) -> None:
        gone = self._leaving.intersection(self._machine.idle_workers)
        self._leaving = (self._leaving - gone).intersection(self._machine.workers)
        for worker in sorted(gone):
            await self.let_go(worker)
        if gone:
            self.start()

    def check_drains(self, now: float) -> None:
        """Let go who was asked to end and has no work now; now and then look for nodes that are told to go."""
        if self._leaving:
            self._dispatch.spawn(self._let_leaving_go())
        if now - self._drains_looked_s >= _DRAINS_EVERY_S:
            self._drains_looked_s = now
            self._dispatch.spawn(self._leave_drained())

    async def _leave_drained(self) -> None:
        draining = await asyncio.to_thread(draining_nodes)
        for worker, within_s in self._drains.newly(draining, self.pool.nodes).items():
            self._leaving.add(worker)
            if worker not in self._machine.idle_workers and self.pool.has(worker):
                time_left = "soon" if within_s is None else f"within {within_s:.0f} s"
                self._log(f"the node of worker {worker} is drained: it ends {time_left}")
                self.pool.handle(worker).preempt.remote(within_s)
        await self._let_leaving_go()
        if draining:
            self.start()
        if not self._keeper.anything_left and ray.get_runtime_context().get_node_id() in draining:
            self._on_not_needed()

    # --- the log ---

    def _log(self, text: str) -> None:
        for run in self._keeper.at_work:
            run.record.log.add(text, level="warning")

    def _log_ended(self, worker: str, text: str, *, level: str) -> None:
        for run in self._keeper.at_work:
            run.record.log.add(text, level=level, kind=EventKind.WORKER_ENDED, worker=worker)


def _log_up(run: OwnedRun, worker: str) -> None:
    run.record.log.add(f"worker {worker} is up", level="debug", kind=EventKind.WORKER_UP, worker=worker)
