"""The memory of a cluster's GPUs, for choosing `auto` degrees. The nodes are asked, because the driver's machine may
have no GPU, or another one."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from render_farm.farm.ray_cluster.nodes import cluster_nodes

_ANSWER_WITHIN_S = 60.0
_QUERY = ("nvidia-smi", "--query-gpu=memory.total,memory.reserved", "--format=csv,noheader,nounits")
_QUERY_WITHIN_S = 30.0


def least_gpu_memory() -> int | None:
    """Bytes of the smallest GPU in the cluster that this process is connected to. None if no node tells."""
    nodes = [node["NodeID"] for node in cluster_nodes() if node["Resources"].get("GPU", 0) > 0]
    if not nodes:
        return None
    task: Any = ray.remote(num_cpus=0, max_retries=0)(memory_here)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_WITHIN_S)
    found: list[int] = []
    for answer in answered:
        with contextlib.suppress(ray.exceptions.RayError):  # a node that went, or has no render_farm: others say it
            found += ray.get(answer)
    return min(found, default=None)


def memory_here() -> list[int]:
    """Bytes of each GPU of this machine that programs can use. Empty without `nvidia-smi`, which sees GPUs that a
    worker's environment hides from torch."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_QUERY_WITHIN_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [_bytes(*line.split(",")) for line in done.stdout.splitlines() if line[:1].isdigit()]


def _bytes(total: str, reserved: str = "") -> int:
    """From MiB. The part that the driver reserves is `[N/A]` with old drivers."""
    kept = reserved.strip()
    return (int(total) - (int(kept) if kept.isdigit() else 0)) << 20
