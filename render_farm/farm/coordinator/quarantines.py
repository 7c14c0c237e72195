"""Quarantines that end by themselves, when another machine has taken the host's name."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from types import MappingProxyType

from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.ray_cluster.nodes import cluster_nodes
from render_farm.scheduling import events as ev

_LOOK_EVERY_S = 5.0


Machines = Mapping[str, frozenset[str]]
"""Ids of nodes by host."""


class ReplacedHosts:
    """The machines of quarantined hosts, by the ids of their nodes. Pure."""

    def __init__(self) -> None:
        self.machines: Machines = {}
        """As they were when their quarantine began."""

    def find(
        self, quarantined: Collection[str], nodes: Machines, *, stored: Machines = MappingProxyType({})
    ) -> list[str]:
        """Quarantined hosts whose nodes are all gone, and others there. `nodes` are present ones, `stored` those of
        hosts whose quarantine began under an earlier coordinator."""
        known = {**nodes, **stored, **self.machines}
        self.machines = {host: known[host] for host in quarantined if known.get(host)}
        return [host for host, before in self.machines.items() if nodes.get(host, before).isdisjoint(before)]


class Quarantines:
    """See the module. Hosts that a person set aside stay so."""

    def __init__(self, events: EventLoop, active: ActiveRuns) -> None:
        self._events = events
        self._active = active
        self._replaced = ReplacedHosts()
        self._looked_s = 0.0

    def check(self, now: float) -> None:
        """Look at the nodes of quarantined hosts now and then."""
        if self._events.machine.hosts.quarantined_by_faults and now - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now
            self._events.spawn(self._look())

    async def _look(self) -> None:
        nodes: defaultdict[str, set[str]] = defaultdict(set)
        for node in await asyncio.to_thread(cluster_nodes):
            nodes[str(node["NodeName"])].add(str(node["NodeID"]))
        present = {host: frozenset(ids) for host, ids in nodes.items()}
        quarantined = self._events.machine.hosts.quarantined_by_faults
        replaced = self._replaced.find(quarantined, present, stored=self._active.machines)
        self._active.keep_machines(self._replaced.machines)
        for host in replaced:
            self._active.host_released(ev.HostReleased(host=host, reason="another machine has its name now"))
            self._events.apply(ev.ReleaseHost(host=host))
