"""As many workers as the films can use, on a cluster that grows and shrinks."""

from __future__ import annotations

from collections import Counter

from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.coordinator.worker_lifecycle import WorkerLifecycle
from render_farm.farm.ray_cluster.autoscaler import ClusterScaler
from render_farm.scheduling.scaling import Present, to_release


class WorkerScaling:
    """See the module. On a cluster of a fixed size it does nothing."""

    def __init__(self, lifecycle: WorkerLifecycle, events: EventLoop, active: ActiveRuns) -> None:
        self._lifecycle = lifecycle
        self._events = events
        self._active = active

    def check(self, now: float) -> None:
        """Scale when it is time to. `now` is in seconds of the monotonic clock."""
        scaler, kept_until_s = self._lifecycle.scaler, self._lifecycle.kept_until_s
        if scaler is None or not (self._active.anything_left or (scaler.num_asked and now >= kept_until_s)):
            return
        if scaler.due(now):
            self._events.spawn(self._scale(scaler))

    async def _scale(self, scaler: ClusterScaler) -> None:
        """Ask the cluster for what films can use and limits allow, start workers on it, and release the others."""
        lifecycle, machine = self._lifecycle, self._events.machine
        at_work = [run for run in self._active.at_work if machine.has_run(run.key)]
        films: Counter[tuple[int, int]] = Counter()
        for run in at_work:
            films.update(machine.unfinished(run.key, begun_only=run.control.paused))
        asked = scaler.num_asked
        cost = await scaler.look()
        for run in at_work:
            run.spent += cost
        decision = await scaler.ask(
            films,
            num_places=lifecycle.config.num_workers,
            bundle_size=lifecycle.config.bundle_size,
            spent=max((run.spent for run in at_work), default=0.0),
        )
        if decision.num_workers != asked:
            for run in at_work:
                run.progress.log.add(f"{scaler.note}: {decision.reason}")
        if decision.stop:
            self._active.stop_all(decision.reason)
            return
        lifecycle.pool.limit = min(decision.num_workers, scaler.num_there)
        idle = set(machine.idle_workers)
        present = [
            Present(name=worker, host=lifecycle.pool.nodes.get(worker, ""), is_idle=worker in idle)
            for worker in machine.workers
        ]
        for worker in to_release(present, decision.num_workers):
            if worker in machine.idle_workers:  # still, after the one before it was released
                await lifecycle.release(worker)
        if lifecycle.config.device != "cuda" or not any(run.encoding for run in at_work):
            lifecycle.start()
