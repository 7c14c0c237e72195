"""Workers of a node that is told to go are asked to end once, with the time that the notice gives."""

from __future__ import annotations

import pytest

from render_farm.farm.ray_cluster.draining import DrainWatch

NODES = {"worker-0.1": "x", "worker-1.1": "y", "worker-2.1": "x"}


def test_each_worker_of_a_draining_node_is_told_once():
    watch = DrainWatch()
    assert watch.newly({}, NODES) == {}
    told = watch.newly({"x": 1_060_000}, NODES, now_s=1000.0)
    assert told == {"worker-0.1": pytest.approx(48), "worker-2.1": pytest.approx(48)}
    assert watch.newly({"x": 1_060_000}, NODES, now_s=1001.0) == {}
    fresh = {"worker-1.1": "y", "worker-2.2": "x"}
    assert watch.newly({"x": 1_060_000, "y": 0}, fresh, now_s=1050.0) == {
        "worker-1.1": None,  # no time was given
        "worker-2.2": pytest.approx(8),
    }


def test_a_time_that_has_passed_leaves_none():
    assert DrainWatch().newly({"y": 900_000}, NODES, now_s=1000.0) == {"worker-1.1": 0.0}
