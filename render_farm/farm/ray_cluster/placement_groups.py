"""Ray placement groups that keep the workers of a render group on one node of a cluster.

Slots are packed by number: 0 to `size` - 1 on one node, the next `size` on one, and so on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class PlacementGroups:
    """Placement groups by need. With a `size` of 1, or where a slot reserves nothing, there are none.

    Several threads may share it. Ray takes its time over a group, and a second one for the same slots would wait for
    the room that the first has.
    """

    def __init__(self, *, size: int, num_slots: int, resources: dict[str, float]) -> None:
        """`resources` are what one slot reserves on its node."""
        self._resources = {name: amount for name, amount in resources.items() if amount}
        self._size = size if self._resources else 1
        self._num_slots = num_slots
        self._groups: dict[int, PlacementGroup] = {}
        self._left_behind: list[PlacementGroup] = []
        self._lock = threading.Lock()

    def options(self, slot: int, *, avoided_nodes: Sequence[str] = ()) -> dict[str, Any]:
        """Ray's options for an actor in a slot. Nothing new is put on the avoided nodes (ids)."""
        selector = {"ray.io/node-id": f"!in({','.join(avoided_nodes)})"} if avoided_nodes else {}
        if self._size == 1:
            return {"label_selector": selector} if selector else {}
        number, bundle = divmod(slot, self._size)
        with self._lock:
            if number in self._groups and set(avoided_nodes) & _nodes_of(self._groups[number]):
                self._left_behind.append(self._groups.pop(number))  # actors that still run there keep it
            if number not in self._groups:
                num_bundles = min(self._size, self._num_slots - number * self._size)
                self._groups[number] = placement_group(
                    [self._resources] * num_bundles,
                    strategy="STRICT_PACK",
                    bundle_label_selector=[selector] * num_bundles if selector else None,
                )
            group = self._groups[number]
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle)}

    def spare(self, taken: Sequence[int]) -> dict[str, Any]:
        """Ray's options for an actor in a slot that is not `taken`. Room that the groups hold is not free elsewhere."""
        for number, group in list(self._groups.items()):
            last = min(self._num_slots, (number + 1) * self._size)
            for slot in range(number * self._size, last):
                if slot not in taken:
                    strategy = PlacementGroupSchedulingStrategy(group, slot - number * self._size)
                    return {"scheduling_strategy": strategy}
        return {}

    def release_unused(self, taken: Sequence[int]) -> None:
        """Remove the groups without a slot that is `taken`. The next ones may be on another node."""
        with self._lock:
            for number in list(self._groups):
                if not any(slot // self._size == number for slot in taken):
                    remove_placement_group(self._groups.pop(number))
            while self._left_behind and not taken:
                remove_placement_group(self._left_behind.pop())

    def what_is_missing(self, slot: int) -> str:
        """Why nothing starts in a slot, if its group is the reason. Otherwise empty."""
        group = self._groups.get(slot // self._size) if self._size > 1 else None
        if group is None or _nodes_of(group):
            return ""
        return f"no node has {group.bundle_count} times {self._resources} free, for a render group"


def _nodes_of(group: PlacementGroup) -> set[str]:
    """Ids of the nodes that a group is on. None while it waits for one."""
    return {node for node in placement_group_table(group)["bundles_to_node_id"].values() if node}
