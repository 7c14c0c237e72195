"""Ray placement groups that keep the workers of a render group on one node of a cluster.

Places are packed as they are numbered: 0 to `size` - 1 on one node, the next `size` on one, and so on.
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
    """Placement groups by need; with a `size` of 1, or where a place reserves nothing, there are none.

    Threads may share it: Ray takes its time over a group, and a second one for the same places would wait for the room
    that the first has.
    """

    def __init__(self, *, size: int, num_places: int, resources: dict[str, float]) -> None:
        """`resources` are what one place reserves of its node."""
        self._resources = {name: amount for name, amount in resources.items() if amount}
        self._size = size if self._resources else 1
        self._num_places = num_places
        self._packs: dict[int, PlacementGroup] = {}
        self._left_behind: list[PlacementGroup] = []
        self._lock = threading.Lock()

    def options(self, place: int, *, avoided_nodes: Sequence[str] = ()) -> dict[str, Any]:
        """Ray's options for an actor in a place. Nothing new is put on the avoided nodes (ids)."""
        selector = {"ray.io/node-id": f"!in({','.join(avoided_nodes)})"} if avoided_nodes else {}
        if self._size == 1:
            return {"label_selector": selector} if selector else {}
        pack, bundle = divmod(place, self._size)
        with self._lock:
            if pack in self._packs and set(avoided_nodes) & _nodes_of(self._packs[pack]):
                self._left_behind.append(self._packs.pop(pack))  # actors that go on there keep it
            if pack not in self._packs:
                num_bundles = min(self._size, self._num_places - pack * self._size)
                self._packs[pack] = placement_group(
                    [self._resources] * num_bundles,
                    strategy="STRICT_PACK",
                    bundle_label_selector=[selector] * num_bundles if selector else None,
                )
            group = self._packs[pack]
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle)}

    def spare(self, taken: Sequence[int]) -> dict[str, Any]:
        """Ray's options for an actor in some place that is not `taken`: what the packs hold is not free elsewhere."""
        for pack, group in list(self._packs.items()):
            last = min(self._num_places, (pack + 1) * self._size)
            for place in range(pack * self._size, last):
                if place not in taken:
                    strategy = PlacementGroupSchedulingStrategy(group, place - pack * self._size)
                    return {"scheduling_strategy": strategy}
        return {}

    def left(self, taken: Sequence[int]) -> None:
        """Give up the packs without a place that is `taken`: the next ones may be on another node."""
        with self._lock:
            for pack in list(self._packs):
                if not any(place // self._size == pack for place in taken):
                    remove_placement_group(self._packs.pop(pack))
            while self._left_behind and not taken:
                remove_placement_group(self._left_behind.pop())

    def what_is_missing(self, place: int) -> str:
        """Why nothing starts in a place, where that is for its pack; else empty."""
        group = self._packs.get(place // self._size) if self._size > 1 else None
        if group is None or _nodes_of(group):
            return ""
        return f"no node has {group.bundle_count} times {self._resources} free, for a render group"


def _nodes_of(group: PlacementGroup) -> set[str]:
    """Ids of the nodes that a group is on; none while it waits for one."""
    return {node for node in placement_group_table(group)["bundles_to_node_id"].values() if node}
