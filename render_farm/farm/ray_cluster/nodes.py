"""The nodes of the cluster that this process is connected to."""

from __future__ import annotations

from typing import Any

import ray


def cluster_nodes() -> list[dict[str, Any]]:
    """Nodes that are alive, as Ray describes them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]
