"""What is said of a cluster that has not what a run needs."""

from __future__ import annotations

import pytest

from render_farm.farm.ray_cluster.outlook import describe


@pytest.mark.parametrize(
    ("most", "pending", "failed", "said"),
    [
        (None, [], [], "no autoscaler says that it could add a GPU"),
        ({"CPU": 64}, [], [], "no node group of the cluster has a GPU"),
        ({"GPU": 0}, [], [], "no node group of the cluster has a GPU"),
        ({"GPU": 8}, [], [], ""),
        ({"GPU": 8}, [("spot", 1), ("spot", 2)], [], "Ray waits for 3 of node group spot"),
        ({"GPU": 8}, [], [("spot", "no capacity")], "node group spot could not be started: no capacity"),
    ],
)
def test_what_is_to_be_expected_of_a_cluster(most, pending, failed, said):
    assert describe("GPU", most, pending=pending, failed=failed) == said
