"""Nodes being drained, after a spot notice or by an autoscaler. Their workers are asked to end, as by a SIGTERM, within
the time that the notice gives."""

from __future__ import annotations

import time
from collections.abc import Mapping

_SHARE = 0.8
"""Share of the time left that the steps may use. The rest is for storing their result."""


def draining_nodes() -> dict[str, int]:
    """Ids of the nodes that Ray drains, each with the Unix time of its end in ms. 0 if no time was given."""
    import ray._private.state  # Ray's own Serve and Train ask here, too: there is no other way

    return ray._private.state.state.get_draining_nodes()


class DrainWatch:
    """Reports each worker of a draining node once."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def newly(
        self, draining: Mapping[str, int], nodes: Mapping[str, str], *, now_s: float | None = None
    ) -> dict[str, float | None]:
        """The workers in `nodes` (node id by worker) whose node is drained since the last look, with the seconds that
        they have left. None if no time was given. `now_s` is Unix time."""
        now_s = time.time() if now_s is None else now_s
        self._reported &= set(nodes)
        found = {
            worker: max(0.0, draining[node] / 1000 - now_s) * _SHARE if draining[node] else None
            for worker, node in nodes.items()
            if node in draining and worker not in self._reported
        }
        self._reported |= set(found)
        return found
