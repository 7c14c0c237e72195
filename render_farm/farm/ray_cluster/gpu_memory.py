"""How much memory the GPUs of a cluster have, by which `auto` degrees are chosen. Its nodes are asked: the driver's
machine may have no GPU, or another."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_ANSWER_WITHIN_S = 60.0
_QUERY = ("nvidia-smi", "--query-gpu=memory.total,memory.reserved", "--format=csv,noheader,nounits")
_QUERY_WITHIN_S = 30.0


def least_gpu_memory() -> int | None:
    """Bytes that the smallest GPU has, of the cluster that this process is connected to; None where no node says."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) > 0]
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
    """Bytes of each GPU of this machine that programs can have; none where `nvidia-smi` does not say. A worker's
    environment may hide the GPUs from torch, and from this it does not."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_QUERY_WITHIN_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [_bytes(*line.split(",")) for line in done.stdout.splitlines() if line[:1].isdigit()]


def _bytes(total: str, reserved: str = "") -> int:
    """From MiB; what the driver keeps for itself is `[N/A]` on old ones."""
    kept = reserved.strip()
    return (int(total) - (int(kept) if kept.isdigit() else 0)) << 20
