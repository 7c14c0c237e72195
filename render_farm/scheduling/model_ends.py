"""When a worker that has a model loaded is next expected to be free, for `affinity.better_waits`."""

from __future__ import annotations

import heapq

from render_farm.scheduling.events import JobKey
from render_farm.scheduling.farm_state import FarmState


class ModelEnds:
    """A heap for every model; films that moved or ended are dropped as they come up."""

    def __init__(self, state: FarmState) -> None:
        self._state = state
        self._ends: dict[str, list[tuple[float, str, JobKey]]] = {}

    def began(self, model: str, worker: str, key: JobKey, ends_s: float) -> None:
        """A worker renders a film, the last segment of which should be done at `ends_s`."""
        heapq.heappush(self._ends.setdefault(model, []), (ends_s, worker, key))

    def first(self, model: str) -> float | None:
        """The first of those times; None when no worker renders with that model."""
        heap = self._ends.get(model, [])
        while heap:
            ends_s, worker, key = heap[0]
            record = self._state.workers.get(worker)
            if record is not None and record.rendering == key:
                return ends_s
            heapq.heappop(heap)
        return None
