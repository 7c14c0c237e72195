"""How many workers and groups a cluster has room for."""

from __future__ import annotations

import inspect

import pytest

from render_farm.cli.rendering.render import render, request_of
from render_farm.errors import UsageError
from render_farm.farm.driver.connection import Cluster
from render_farm.farm.driver.resolved_farm import groups_of
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.settings import Settings, load_settings
from render_farm.planning.group_options import GroupOptions


def places(
    monkeypatch: pytest.MonkeyPatch, *, there: int = 0, node: int | None = None, device: str = "cuda", **asked: int
) -> int:
    """Of the host that groups are chosen for, on a cluster whose machines have so many GPUs."""
    monkeypatch.setattr(Cluster, "least_gpu_memory", lambda cluster: None)
    cluster = Cluster(address="auto", private=False, num_gpus=there, num_cpus=2, most_gpus=there, most_cpus=2)
    request = RunRequest(output="o", ulysses="auto", settings=Settings(group=GroupOptions(gpus_per_node=node)), **asked)
    return groups_of(request, cluster, device, lambda model: pytest.fail(model)).host.num_workers


def test_an_empty_cluster_that_grows_has_the_machines_that_are_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    assert places(monkeypatch, max_gpus=64) == 1
    assert places(monkeypatch, max_gpus=64, node=8) == 8
    assert places(monkeypatch, max_gpus=64, node=8, there=4) == 8
    assert places(monkeypatch, max_gpus=64, node=4, there=8) == 8
    assert places(monkeypatch, max_gpus=6, node=8) == 6
    assert places(monkeypatch, max_gpus=64, node=8, num_workers=2) == 2
    assert places(monkeypatch, node=8) == 1, "it does not grow"
    assert places(monkeypatch, max_gpus=64, node=8, device="cpu") == 8


def test_gpus_per_node_is_a_setting_and_a_flag_of_clusters_that_grow() -> None:
    assert load_settings(environment={"RENDER_FARM_GROUP_GPUS_PER_NODE": "8"}).group.gpus_per_node == 8
    with pytest.raises(UsageError, match=r"group\.gpus_per_node must be at least 1, got 0"):
        load_settings(environment={"RENDER_FARM_GROUP_GPUS_PER_NODE": "0"})
    with pytest.raises(UsageError, match=r"group\.gpus_per_node must be a whole number, at least 1, got 'eight'"):
        load_settings(environment={"RENDER_FARM_GROUP_GPUS_PER_NODE": "eight"})
    flags = dict.fromkeys(inspect.signature(render).parameters) | {"prompt": "p", "output": "o", "device": "auto"}
    assert request_of({**flags, "max_gpus": 64, "gpus_per_node": 8}).settings.group.gpus_per_node == 8
    with pytest.raises(UsageError, match="give --max-gpus too"):
        request_of({**flags, "gpus_per_node": 8})
