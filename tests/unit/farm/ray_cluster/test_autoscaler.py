"""What a cluster has cost."""

from __future__ import annotations

import asyncio

from render_farm.farm.ray_cluster.autoscaler import ClusterScaler
from render_farm.scheduling.scaling import ScaleLimits


def test_a_cluster_costs_what_was_there_since_the_last_look(monkeypatch):
    scaler, there, now = ClusterScaler(ScaleLimits(max_workers=8, price_per_hour=3.0), resource="GPU"), {}, [0.0]
    monkeypatch.setattr("ray.cluster_resources", lambda: there)
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def look(num_gpus: int, at_s: float) -> float:
        there["GPU"], now[0] = num_gpus, at_s
        return asyncio.run(scaler.look())

    assert [look(4, 100.0), look(8, 700.0), look(0, 1000.0)] == [0.0, 4 * 3.0 / 6, 8 * 3.0 / 12]
