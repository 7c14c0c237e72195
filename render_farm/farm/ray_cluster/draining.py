"""Nodes being drained, after a spot notice or by an autoscaler. Their workers are asked to end, as by a SIGTERM, within
the time that the notice gives."""

from __future__ import annotations

import time
from collections.abc import Mapping

_SHARE = 0.8
"""Share of the time left that the steps may use. The rest is for storing their result."""
_ANSWER_WITHIN_S = 10.0


def draining_nodes() -> dict[str, int]:
    """Ids of the nodes that Ray drains, each with the Unix time of its end in ms. 0 if no time was given."""
    import ray._private.state  # Ray's own Serve and Train ask here, too: there is no other way

    return ray._private.state.state.get_draining_nodes()


def usual_drain_s() -> float:
    """Seconds that the steps of this node's workers may use when `ray start --block` gets a SIGTERM here, as it does
    when a Pod is deleted."""
    from ray._private import ray_constants

    return float(getattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30.0)) * _SHARE  # 2.59 has no such


def drain_machine(address: str | None, ip: str | None, *, gone_s: float, reason: str) -> int:
    """Have Ray drain every living node of a machine, as the command `ray drain-node` does for one.

    Args:
        address: Of the cluster. None: `$RAY_ADDRESS`, or the cluster whose processes run here.
        ip: The machine's address in the cluster. None: this machine's.
        gone_s: When the machine will be gone, in Unix time.
        reason: A sentence for Ray's log.

    Returns:
        The number of nodes that are being drained.

    Raises:
        RayError, RuntimeError, OSError: The cluster cannot be found or reached.
    """
    import ray
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

    client = GcsClient(address=canonicalize_bootstrap_address_or_die(address or "auto"))
    ip = ip or ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    nodes = client.get_all_node_info(timeout=_ANSWER_WITHIN_S)
    accepted = [
        client.drain_node(
            node_id.hex(), DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), reason, int(gone_s * 1000)
        )[0]
        for node_id, node in nodes.items()
        if node.state == GcsNodeInfo.ALIVE and node.node_manager_address == ip
    ]
    return sum(accepted)


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
