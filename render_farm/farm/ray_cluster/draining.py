"""Nodes that are told to go: a spot notice, an autoscaler that takes one away. Their workers are asked to end in time,
as a SIGTERM asks them, but with the time that the notice gives."""

from __future__ import annotations

import time
from collections.abc import Mapping

_SHARE = 0.8
"""Of the time that is left: for the steps. The rest is for storing what they made."""


def draining_nodes() -> dict[str, int]:
    """Ids of the nodes that Ray drains, and when they go: Unix time in ms, 0 when no time was given."""
    import ray._private.state  # Ray has no other way to ask, and its Serve and Train ask here, too

    return ray._private.state.state.get_draining_nodes()


class DrainWatch:
    """Tells each worker of a draining node once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def newly(
        self, draining: Mapping[str, int], nodes: Mapping[str, str], *, now_s: float | None = None
    ) -> dict[str, float | None]:
        """Of the workers in `nodes` (node id by worker) those whose node drains since the last look, with the seconds
        that they may go on; None when no time was given. `now_s` is Unix time."""
        now_s = time.time() if now_s is None else now_s
        self._told &= set(nodes)
        found = {
            worker: max(0.0, draining[node] / 1000 - now_s) * _SHARE if draining[node] else None
            for worker, node in nodes.items()
            if node in draining and worker not in self._told
        }
        self._told |= set(found)
        return found
