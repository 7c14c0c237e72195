"""Which groups a run's films have: by the flags, the columns and the settings."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from typer.testing import CliRunner

from render_farm import RenderJob
from render_farm.cli.main import app
from render_farm.cli.render import render, request_of
from render_farm.errors import ModelError, UsageError
from render_farm.farm.driver.connection import Cluster
from render_farm.farm.driver.farm_shape import groups_of
from render_farm.farm.driver.group_choice import GroupChooser, Host, this_host
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.settings import Settings, load_settings
from render_farm.manifest.writer import write_manifest
from render_farm.models import PRESETS
from render_farm.planning import FilmPlan, facts_of_preset, plan_film
from render_farm.planning.group_choice import FilmGroups
from render_farm.planning.group_options import GroupOptions
from render_farm.planning.groups import GroupShape
from render_farm.planning.model_sizes import ModelShapes, shapes_of_preset

MODEL = "df-14b-540p"
EIGHT_GPUS = Host(device="cuda", num_workers=8)


def film(**columns: Any) -> FilmPlan:
    return plan_film(RenderJob(job_id="a", prompt="p", model=MODEL, **columns), facts_of_preset(MODEL))


def shapes_of(model: str) -> ModelShapes:
    return shapes_of_preset(PRESETS[model])


def unknown(model: str) -> ModelShapes:
    raise ModelError("no sizes")


def test_degrees_that_nobody_asked_to_choose_are_1() -> None:
    chooser = GroupChooser(GroupOptions(), EIGHT_GPUS, shapes_of, chooses=False)
    assert chooser(film()) == FilmGroups(group=GroupShape())
    assert chooser(film(ulysses=4, cfg_parallel=2)) == FilmGroups(group=GroupShape(cfg=2, ulysses=4))


def test_auto_degrees_let_idle_workers_join() -> None:
    chooser = GroupChooser(GroupOptions(), EIGHT_GPUS, shapes_of, chooses=True)
    assert chooser(film()).group == GroupShape()
    assert chooser(film()).joined[-1] == GroupShape(cfg=2, ulysses=4)
    assert chooser(film(cfg_parallel=1)).joined[-1] == GroupShape(ulysses=8)
    slow = GroupOptions(bytes_per_s=1e9)
    assert GroupChooser(slow, EIGHT_GPUS, shapes_of, chooses=True)(film()).joined == (GroupShape(cfg=2),)
    small = Host(device="cuda", num_workers=8, memory_bytes=55 << 30)
    assert GroupChooser(GroupOptions(), small, shapes_of, chooses=True)(film()).group.size > 1


def test_a_model_whose_sizes_are_not_known_gets_no_groups() -> None:
    chooser = GroupChooser(GroupOptions(), EIGHT_GPUS, unknown, chooses=True)
    assert chooser(film()) == FilmGroups(group=GroupShape())


def test_a_cpu_host_has_as_many_workers_as_are_asked_for() -> None:
    assert this_host("cpu", 6) == Host(device="cpu", num_workers=6)
    assert 1 <= this_host("cpu", None).num_workers <= 4


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--ulysses", "x"], "'x' is neither a number of at least 1 nor auto"),
        (["--ring", "0"], "'0' is neither a number of at least 1 nor auto"),
        (["--cfg-parallel", "3"], "'3' is not one of 1, 2, auto"),
    ],
)
@pytest.mark.parametrize("verb", ["render", "plan"])
def test_flags_that_are_no_degrees(verb: str, flags: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, [verb, "films.parquet", *flags])
    assert done.exit_code == 2
    assert complaint in done.output


def test_plan_shows_the_groups(tmp_path) -> None:
    manifest = str(tmp_path / "films.parquet")
    write_manifest(
        manifest,
        [
            RenderJob(job_id="a", prompt="p", model=MODEL, num_frames=97),
            RenderJob(job_id="b", prompt="p", model=MODEL, num_frames=97, ulysses=5),
        ],
    )
    plain = CliRunner().invoke(app, ["plan", manifest]).output
    assert plain.count("group: ") == 1
    assert "group: cfg 1 x ulysses 5 x ring 1, 5 workers, " in plain
    auto = CliRunner().invoke(app, ["plan", manifest, "--ulysses", "auto", "--workers", "2"]).output
    assert (
        "with idle workers: cfg 2 x ulysses 1 x ring 1, 2 workers, 8.36 s a step, efficiency 100% (predicted)" in auto
    )
    given = CliRunner().invoke(app, ["plan", manifest, "--cfg-parallel", "2"]).output
    assert "group: cfg 2 x ulysses 1 x ring 1" in given and "group: cfg 2 x ulysses 5 x ring 1" in given


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
