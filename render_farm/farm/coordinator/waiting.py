"""Runs that stand still. After a minute, each says in its log what it waits for. `explain` says so too."""

from __future__ import annotations

import asyncio

from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.coordinator.worker_lifecycle import WorkerLifecycle
from render_farm.farm.ray_cluster.outlook import outlook
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.scheduling.events import JobKey
from render_farm.scheduling.states import State

_LOOK_EVERY_S = 5.0
_SAID_AFTER_S = 60.0
_SAID_AGAIN_AFTER_S = 600.0


class Waiting:
    """See the module."""

    def __init__(self, lifecycle: WorkerLifecycle, events: EventLoop, active: ActiveRuns) -> None:
        self._lifecycle = lifecycle
        self._events = events
        self._active = active
        self._looked_s = 0.0

    def check(self, now: float) -> None:
        """Look at every run now and then. `now` is in seconds of the monotonic clock."""
        if now - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now
        for run in self._active.at_work:
            if run.started:
                self._events.spawn(self._look(run, now))

    async def _look(self, run: OwnedRun, now: float) -> None:
        run.waits_for = what = await self._what(run, now)
        if not what:
            run.waits_since_s, run.waits_said_s = now, None
            return
        last = run.waits_said_s
        if now - run.waits_since_s >= _SAID_AFTER_S and (last is None or now - last >= _SAID_AGAIN_AFTER_S):
            run.waits_said_s = now
            run.progress.log.add(
                f"nothing is rendered for {(now - run.waits_since_s) / 60:.0f} min: {what}", level="warning"
            )

    async def _what(self, run: OwnedRun, now: float) -> str:
        """What the run waits for. Empty when it works, is paused, or is only about to start."""
        progress, machine = run.progress, self._events.machine
        if run.control.paused or progress.counts.get(State.RUNNING):
            return ""
        if run.encoding:
            return progress.note or "its prompts are being encoded"
        if not machine.workers:
            text, scaler = f"no worker is up yet; {self._lifecycle.expected}", self._lifecycle.scaler
            resource = "GPU" if self._lifecycle.config.device == "cuda" else "CPU"
            more = await asyncio.to_thread(outlook, resource) if scaler is not None and not scaler.num_there else ""
            last = self._lifecycle.pool.last_problem
            return "; ".join(filter(None, [text, more, f"the last start failed: {last}" if last else ""]))
        waiting = (job_id for job_id, film in progress.films.items() if film.result.state == State.WAITING)
        first = next(waiting, None)
        key = JobKey(run.key, first or "")
        if first is None or machine.state_of(key) is not State.WAITING:
            return ""
        return f"film {first}: {machine.why_waiting(key, now)}"
