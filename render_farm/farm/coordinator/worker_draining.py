"""Workers that were asked to end, by a SIGTERM or because their node is drained: released once they have no work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import ray

from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.coordinator.worker_lifecycle import WorkerLifecycle
from render_farm.farm.ray_cluster.draining import DrainWatch, draining_nodes

_LOOK_EVERY_S = 2.0


class WorkerDraining:
    """See the module."""

    def __init__(
        self,
        lifecycle: WorkerLifecycle,
        events: EventLoop,
        active: ActiveRuns,
        *,
        on_not_needed: Callable[[], None],
    ) -> None:
        """`on_not_needed` is called when nothing is left to render and the node of this process is drained."""
        self._lifecycle = lifecycle
        self._events = events
        self._active = active
        self._on_not_needed = on_not_needed
        self._drains = DrainWatch()
        self._to_release: set[str] = set()
        self._looked_s = 0.0

    async def on_sigterm(self, worker: str) -> None:
        """Release a worker that got a SIGTERM, as soon as it has no work."""
        self._to_release.add(worker)
        await self._release_idle()

    def check(self, now: float) -> None:
        """Release workers without work, and check now and then for nodes being drained."""
        if self._to_release:
            self._events.spawn(self._release_idle())
        if now - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now
            self._events.spawn(self._leave_drained())

    async def _release_idle(self) -> None:
        machine = self._events.machine
        gone = self._to_release.intersection(machine.idle_workers)
        self._to_release = (self._to_release - gone).intersection(machine.workers)
        for worker in sorted(gone):
            await self._lifecycle.release(worker)
        if gone:
            self._lifecycle.start()

    async def _leave_drained(self) -> None:
        pool, draining = self._lifecycle.pool, await asyncio.to_thread(draining_nodes)
        for worker, within_s in self._drains.newly(draining, pool.nodes).items():
            self._to_release.add(worker)
            if worker not in self._events.machine.idle_workers and pool.has(worker):
                time_left = "soon" if within_s is None else f"within {within_s:.0f} s"
                for run in self._active.at_work:
                    run.progress.log.add(
                        f"the node of worker {worker} is drained: it ends {time_left}", level="warning"
                    )
                pool.handle(worker).preempt.remote(within_s)
        await self._release_idle()
        if draining:
            self._lifecycle.start()
        if not self._active.anything_left and ray.get_runtime_context().get_node_id() in draining:
            self._on_not_needed()
