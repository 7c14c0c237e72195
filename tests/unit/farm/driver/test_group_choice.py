"""Which groups a run's films have: by the flags, the columns and the settings."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from render_farm import RenderJob
from render_farm.cli.main import app
from render_farm.errors import ModelError
from render_farm.farm.driver.group_choice import GroupChooser, Host, this_host
from render_farm.manifest.writer import write_manifest
from render_farm.models import PRESETS
from render_farm.planning import FilmPlan, plan_film, spec_of_preset
from render_farm.planning.group_choice import FilmGroups
from render_farm.planning.group_options import GroupOptions
from render_farm.planning.groups import GroupShape
from render_farm.planning.model_sizes import ModelSizes, sizes_of_preset

MODEL = "df-14b-540p"
EIGHT_GPUS = Host(device="cuda", num_workers=8)


def film(**columns: Any) -> FilmPlan:
    return plan_film(RenderJob(job_id="a", prompt="p", model=MODEL, **columns), spec_of_preset(MODEL))


def shapes_of(model: str) -> ModelSizes:
    return sizes_of_preset(PRESETS[model])


def unknown(model: str) -> ModelSizes:
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
    small = Host(device="cuda", num_workers=8, memory_bytes=44 << 30)
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
    joined = "with idle workers: cfg 2 x ulysses 1 x ring 1, 2 workers, 8.36 s a step, efficiency 100%"
    assert f"{joined}, 2 s to form (predicted)" in auto
    given = CliRunner().invoke(app, ["plan", manifest, "--cfg-parallel", "2"]).output
    assert "group: cfg 2 x ulysses 1 x ring 1" in given and "group: cfg 2 x ulysses 5 x ring 1" in given
