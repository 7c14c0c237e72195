"""A spot notice makes Ray drain the machine, as the program that `cluster/` starts on each node sees it."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
import ray
from ray.cluster_utils import Cluster

from render_farm.farm.ray_cluster.draining import draining_nodes
from tests.helpers.films import wait_for
from tests.helpers.metadata_server import metadata_server


@pytest.mark.server
def test_a_spot_notice_drains_the_node_of_its_machine():
    cluster = Cluster()
    cluster.add_node(num_cpus=1, include_dashboard=False)
    ray.init(address=cluster.address, log_to_driver=False)

    @ray.remote(num_cpus=1)
    class Busy:  # Ray ends a drained node that has nothing to do
        def node(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    busy = Busy.remote()
    try:
        node = ray.get(busy.node.remote(), timeout=120)
        gone_at = datetime.now(UTC) + timedelta(seconds=120)
        with metadata_server("AWS") as server:
            command = [sys.executable, "-m", "render_farm.farm.ray_cluster.spot_notice", f"--metadata={server.url}"]
            command += [f"--address={cluster.address}", f"--node-ip={cluster.head_node.node_ip_address}"]
            watcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert watcher.stderr is not None
            assert "watching for a spot notice of AWS" in watcher.stderr.readline()
            time.sleep(0.5)
            assert watcher.poll() is None and draining_nodes() == {}
            server.gone_at = gone_at
            assert watcher.wait(timeout=60) == 0, watcher.stderr.read()
        wait_for(lambda: node in draining_nodes(), what="the drain")
        assert draining_nodes()[node] / 1000 == pytest.approx(gone_at.timestamp(), abs=2)
    finally:
        ray.shutdown()
        cluster.shutdown()
