"""Asks Ray's autoscaler for the workers that the farm can use, and adds up their cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import ray
from ray.autoscaler.sdk import request_resources

from render_farm.farm.run.spec import FarmConfig
from render_farm.scheduling.scaling import Decision, Demand, ScaleLimits, decide

_ASK_AGAIN_S = 60.0
_LOOK_EVERY_S = 5.0


class ClusterScaler:
    """One per coordinator. The cost is that of every GPU (or CPU slot) of the cluster since there was something to
    render, including idle ones. The time before a machine joins the cluster is not counted."""

    def __init__(self, limits: ScaleLimits, *, resource: str) -> None:
        """`resource` is Ray's name for the resource that a worker takes one of: `GPU` or `CPU`."""
        self.limits = limits
        self.num_there = 0
        self._resource = resource
        self.num_asked = 0
        self._bundles: tuple[int, ...] = ()
        self._asked_s: float | None = None
        self._looked_s: float | None = None
        self._next_look_s = 0.0

    @property
    def note(self) -> str:
        """The number of workers asked for and present, for people."""
        return f"{self.num_asked} workers ({self._resource}) asked of the cluster, which has {self.num_there}"

    def due(self, now: float) -> bool:
        """Whether it is time to look again. True once per interval."""
        if now < self._next_look_s:
            return False
        self._next_look_s = now + _LOOK_EVERY_S
        return True

    async def look(self) -> float:
        """Count the workers of the cluster. Returns their cost since the last look."""
        now = time.monotonic()
        there = await asyncio.to_thread(ray.cluster_resources)
        cost = 0.0
        if self._looked_s is not None and self.limits.price_per_hour:
            cost = self.num_there * self.limits.price_per_hour * (now - self._looked_s) / 3600
        self.num_there, self._looked_s = int(there.get(self._resource, 0)), now
        return cost

    async def ask(
        self, films: Mapping[tuple[int, int], int], *, num_places: int, bundle_size: int, spent: float
    ) -> Decision:
        """Decide (the arguments are `Demand`'s), and ask for the workers if that has changed. Asks again now and then,
        because a restarted head forgets requests."""
        now = time.monotonic()
        demand = Demand(
            films=films, num_slots=num_places, bundle_size=bundle_size, num_there=self.num_there, spent=spent
        )
        decision = decide(demand, self.limits)
        if decision.bundles != self._bundles or self._asked_s is None or now - self._asked_s > _ASK_AGAIN_S:
            self._bundles, self.num_asked, self._asked_s = decision.bundles, decision.num_workers, now
            bundles = [{self._resource: size} for size in decision.bundles]
            await asyncio.to_thread(request_resources, bundles=bundles)
        return decision

    async def ask_for_nothing(self) -> None:
        """Nothing is left to render: release every machine."""
        self.num_asked, self._bundles, self._asked_s, self._looked_s = 0, (), None, None
        await asyncio.to_thread(request_resources, bundles=[])


def scaler_of(config: FarmConfig) -> ClusterScaler | None:
    """The scaler of a farm with this configuration. None on a cluster that does not grow."""
    if config.scaling is None:
        return None
    return ClusterScaler(config.scaling, resource="GPU" if config.device == "cuda" else "CPU")
