"""Tell Ray that a node goes, as a spot notice does: `python -m tests.chaos.drain ADDRESS NAME SECONDS`."""

from __future__ import annotations

import sys
import time

import ray
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason


def main(address: str, name: str, seconds: float) -> int:
    ray.init(address=address, log_to_driver=False, logging_level=40)
    nodes = [node["NodeID"] for node in ray.nodes() if node["NodeName"] == name and node["Alive"]]
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    gone_ms = int((time.time() + seconds) * 1000)
    accepted = [GcsClient(address=address).drain_node(node, reason, "chaos", gone_ms)[0] for node in nodes]
    return 0 if accepted and all(accepted) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
