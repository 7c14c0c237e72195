"""Which machines the cluster's autoscaler waits for, or why it adds none, in a sentence for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import ray


def outlook(resource: str) -> str:
    """What is to be expected of a cluster that has no `resource` (`GPU`, `CPU`) now. Empty when Ray does not say."""
    from ray._private.state import state  # Ray Data asks there, too: nothing public tells
    from ray.autoscaler.v2.sdk import get_cluster_status

    try:
        most = state.get_max_resources_from_cluster_config()
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
    except Exception:  # noqa: BLE001  (it is for people, and of an interface that may change)
        return ""
    return describe(
        resource,
        most,
        pending=[(launch.ray_node_type_name, launch.count) for launch in status.pending_launches],
        failed=[(launch.ray_node_type_name, launch.details or "") for launch in status.failed_launches],
    )


def describe(
    resource: str,
    most: Mapping[str, float] | None,
    *,
    pending: Iterable[tuple[str, int]],
    failed: Iterable[tuple[str, str]],
) -> str:
    """`most` is what all node groups could have together, None where no autoscaler has told; `pending` has groups and
    numbers of machines, `failed` groups and reasons."""
    waited: Counter[str] = Counter()
    for group, number in pending:
        waited[group] += number
    parts = [f"Ray waits for {number} of node group {group}" for group, number in sorted(waited.items())]
    parts += [f"node group {group} could not be started: {reason}" for group, reason in dict(failed).items()]
    if not parts and most is None:
        parts = [f"no autoscaler says that it could add a {resource}"]
    elif not parts and most is not None and not most.get(resource):
        parts = [f"no node group of the cluster has a {resource}"]
    return "; ".join(parts)
