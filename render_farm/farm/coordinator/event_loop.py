"""Events in, actions out: the one place that drives the scheduling machine, and the tasks that its actions become."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine


class EventLoop:
    """For one event loop. `on_mistake` is called when a task fails, which is a bug in the farm itself."""

    def __init__(self, machine: FarmMachine, metrics: FarmMetrics, *, on_mistake: Callable[[str], None]) -> None:
        self.machine = machine
        self._metrics = metrics
        self._on_mistake = on_mistake
        self._handlers: dict[type, Callable[[Any], Any]] = {ev.WakeAt: self._wake_at}
        self._on_hosts_changed: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake_at_s = float("inf")

    def connect(self, handlers: dict[type, Callable[[Any], Any]], *, on_hosts_changed: Callable[[], None]) -> None:
        """Set the handler of each kind of action. One that returns a coroutine runs on as a task. `on_hosts_changed`
        comes before the actions, because they may start workers."""
        self._handlers |= handlers
        self._on_hosts_changed = on_hosts_changed

    def apply(self, event: ev.Event) -> None:
        """Apply an event to the machine, and carry out its actions."""
        now = time.monotonic()
        actions = self.machine.apply(event, now)
        self._metrics.applied(event, actions, now)
        if isinstance(event, ev.QuarantineHost | ev.ReleaseHost) or any(
            isinstance(action, ev.HostQuarantined | ev.HostReleased) for action in actions
        ):
            self._on_hosts_changed()
        for action in actions:
            result = self._handlers[type(action)](action)
            if asyncio.iscoroutine(result):
                self.spawn(result)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it alongside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # No run may wait for ever because of it.
            self._on_mistake(f"internal error: {task.exception()!r}")

    def _wake_at(self, action: ev.WakeAt) -> None:
        """Tick at a time, when that is before the next one that is waited for."""
        now = time.monotonic()
        if now < self._wake_at_s <= action.time_s:
            return
        self._wake_at_s = action.time_s
        asyncio.get_running_loop().call_later(max(0.0, action.time_s - now), self.apply, ev.Tick())
