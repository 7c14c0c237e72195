"""A farm on a cluster that grows: Ray's own autoscaler, with a provider whose machines are processes of this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.autoscaler.v2.sdk import get_cluster_status

from tests.helpers import films
from tests.helpers.fixtures_s3 import free_port
from tests.helpers.ray_head import ray_command

MOST = 2
_MACHINE = "machine"
_LOOK_EVERY_S = 0.25


class Watch(threading.Thread):
    """Machines that a cluster has, and bundles that are asked of it, whenever one of them has changed."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.machines = [0]
        self.asked = [0]
        self._address = address
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            status = get_cluster_status(self._address)
            nodes = [node for node in (*status.active_nodes, *status.idle_nodes) if node.ray_node_type_name == _MACHINE]
            asked = status.resource_demands.cluster_constraint_demand
            _note(self.machines, len(nodes))
            _note(self.asked, sum(each.count for demand in asked for each in demand.bundles_by_count))

    def wait_until_all_are_gone(self) -> None:
        films.wait_for(lambda: not self.machines[-1] and not self.asked[-1], what="the machines' leaving")
        self._over.set()
        self.join()


def _note(seen: list[int], now: int) -> None:
    if seen[-1] != now:
        seen.append(now)


@pytest.fixture(scope="module")
def growing() -> Iterator[str]:
    """Address of a head without slots, whose cluster may have three machines of one slot each."""
    from ray._private.services import get_node_ip_address
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    port, folder = free_port(), Path("/tmp") / f"ray-a{os.getpid()}"  # sockets need a short path
    address = f"{get_node_ip_address()}:{port}"
    config = {
        "cluster_name": "growing",
        "max_workers": 3,
        "idle_timeout_minutes": 0.05,
        "upscaling_speed": 1,
        "provider": {
            # By its path: the wheel lacks the defaults that Ray looks up for the name `fake_multinode`.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "auth": {},
        "docker": {},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            _MACHINE: {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3},
        },
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
    folder.mkdir()
    (folder / "autoscaling.json").write_text(json.dumps(config))
    environment = {
        **os.environ,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_agent_register_timeout_ms": "300000",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # a machine that is left behind ends itself
    }
    start = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", "--num-cpus=0", "--block",
        "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}", "--object-store-memory=100000000",
        f"--autoscaling-config={folder / 'autoscaling.json'}",
    ]  # fmt: skip
    head = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        films.wait_for(lambda: ray_command("status", f"--address={address}").returncode == 0, what="the head's start")
        yield address
    finally:
        head.terminate()
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_machines_come_for_the_films_up_to_the_limit_and_go_when_they_are_done(growing, tmp_path):
    watch = Watch(growing)
    watch.start()
    manifest = films.manifest(tmp_path, [films.job(name) for name in "abc"])
    arguments = ["--output", str(tmp_path / "out"), "--address", growing, "--device", "cpu", "--max-gpus", str(MOST)]
    done = films.render(manifest, *arguments)
    assert done.returncode == 0, done.stderr
    for name in "abc":
        films.assert_complete(tmp_path / "out", name)
    watch.wait_until_all_are_gone()
    assert watch.asked[:2] == [0, MOST] and max(watch.asked) == MOST, watch.asked
    assert max(watch.machines) == MOST, watch.machines


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--max-gpus", "2"], "private Ray"),
        (["--max-cost", "2", "--address", "127.0.0.1:1"], "--max-gpus"),
    ],
)
def test_limits_that_cannot_be_kept_are_exit_code_2(tmp_path, flags, says):
    manifest = films.manifest(tmp_path, [films.job("a")])
    done = films.render(manifest, "--output", str(tmp_path / "out"), *flags)
    assert done.returncode == 2 and says in done.stderr, done.stderr
