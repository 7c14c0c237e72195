"""Workers of a render group start on one node of a cluster, and nodes say what their GPUs have: a Ray of two nodes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from render_farm.farm.driver import connection as farm_cluster
from render_farm.farm.driver.group_choice import Host
from render_farm.farm.driver.resolved_farm import groups_of
from render_farm.farm.ray_cluster.gpu_memory import least_gpu_memory, memory_here
from render_farm.farm.ray_cluster.placement_groups import PlacementGroups
from render_farm.farm.run.request import RunRequest

NVIDIA_SMI = """#!/bin/sh
echo "$@" | grep -q -- "--query-gpu=memory.total,memory.reserved --format=csv,noheader,nounits" || exit 2
echo "81559, 551"
echo "40960, [N/A]"
"""
"""What the driver's program prints on a machine with two GPUs."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with four CPUs each; one of them says that it has GPUs."""
    programs: Path = tmp_path_factory.mktemp("bin")
    (programs / "nvidia-smi").write_text(NVIDIA_SMI)
    (programs / "nvidia-smi").chmod(0o755)
    cluster = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        for number in range(2):
            cluster.add_node(num_cpus=4, node_name=f"node-{number}", include_dashboard=False, num_gpus=2 * number)
            patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@ray.remote
class Worker:
    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


def start(packs: PlacementGroups, places: range, **options) -> list:
    return [Worker.options(num_cpus=1, **packs.options(place, **options)).remote() for place in places]


def nodes_of(workers: list) -> list[str]:
    return ray.get([worker.node.remote() for worker in workers], timeout=120)


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


@pytest.mark.timeout(300)
def test_packs_stay_on_a_node_each_move_off_avoided_ones_and_are_given_back(cluster: Cluster) -> None:
    packs = PlacementGroups(size=2, num_slots=5, resources={"CPU": 1.0, "GPU": 0.0})
    workers = start(packs, range(4))
    nodes = nodes_of(workers)
    assert nodes[0] == nodes[1] and nodes[2] == nodes[3]
    assert packs.what_is_missing(0) == ""

    ray.kill(workers[0])
    [moved] = nodes_of(start(packs, range(1), avoided_nodes=[nodes[0]]))
    assert moved != nodes[0]
    assert nodes_of(workers[1:2]) == [nodes[0]], "its neighbour goes on where it is"

    ray.kill(workers[2])
    [spare] = nodes_of([Worker.options(num_cpus=1, **packs.spare((0, 1, 3))).remote()])
    assert spare == nodes[2]

    packs.release_unused(())
    stop = time.monotonic() + 60
    while free_cpus() < 8:
        assert time.monotonic() < stop, "the nodes are not given back"
        time.sleep(0.1)


@pytest.mark.timeout(300)
def test_threads_that_ask_at_once_get_the_same_pack(cluster: Cluster) -> None:
    packs = PlacementGroups(size=4, num_slots=4, resources={"CPU": 1.0})
    together = threading.Barrier(4)

    def ask(slot: int) -> str:
        together.wait(60)
        return packs.options(slot)["scheduling_strategy"].placement_group.id.hex()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(ask, range(4)))) == 1
    packs.release_unused(())


@pytest.mark.timeout(300)
def test_a_pack_that_no_node_has_room_for_says_so(cluster: Cluster) -> None:
    packs = PlacementGroups(size=5, num_slots=5, resources={"CPU": 1.0})
    start(packs, range(1))
    assert packs.what_is_missing(0) == "no node has 5 times {'CPU': 1.0} free, for a render group"
    packs.release_unused(())


def test_without_groups_slots_are_anywhere(cluster: Cluster) -> None:
    assert PlacementGroups(size=1, num_slots=4, resources={"CPU": 1.0}).options(0) == {}
    assert PlacementGroups(size=4, num_slots=4, resources={"CPU": 0.0}).options(0) == {}
    options = PlacementGroups(size=1, num_slots=4, resources={"CPU": 1.0}).options(0, avoided_nodes=["a", "b"])
    assert options == {"label_selector": {"ray.io/node-id": "!in(a,b)"}}


def read_no_checkpoint(model: str) -> Any:
    raise AssertionError(model)


def test_nodes_with_gpus_say_how_much_memory_they_have(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert least_gpu_memory() == 40960 << 20
    here = farm_cluster.Cluster(address="auto", private=False, num_gpus=2, num_cpus=8, most_gpus=2)
    chooser = groups_of(RunRequest(output="out", ulysses="auto"), here, "cuda", read_no_checkpoint)
    assert chooser.host == Host(device="cuda", num_workers=2, memory_bytes=40960 << 20)
    monkeypatch.setenv("PATH", "/nowhere")
    assert memory_here() == []
