"""`auto` degrees: always possible ones, none that waste workers, and what is named is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render_farm import RenderJob
from render_farm.errors import UsageError
from render_farm.farm.run.settings import load_settings
from render_farm.models import PRESETS
from render_farm.planning import FilmPlan, plan_film, resolve_job, spec_of_preset
from render_farm.planning.group_choice import WORTH, AskedDegrees, FilmGroups, choose_groups, efficiency, film_groups
from render_farm.planning.group_cost import (
    CPU_NODE,
    NVLINK_NODE,
    PCIE_NODE,
    GroupMachine,
    StepWork,
    machine_of,
    step_seconds,
    step_work,
)
from render_farm.planning.group_options import GroupOptions
from render_farm.planning.groups import MOST_WORKERS, GroupShape, check_group, nearest_shape, possible_shapes
from render_farm.planning.memory import estimate_memory, usable_bytes
from render_farm.planning.model_sizes import sizes_of_preset

GIB = 1 << 30


def film(model: str = "df-14b-540p", **columns: Any) -> FilmPlan:
    return plan_film(RenderJob(job_id="a", prompt="p", model=model, **columns), spec_of_preset(model))


def groups(plan: FilmPlan, machine: GroupMachine = NVLINK_NODE, **situation: Any) -> FilmGroups:
    sizes = sizes_of_preset(PRESETS[plan.spec.name])
    return film_groups(plan, sizes, machine, **{"num_workers": 8, **situation})


def test_a_film_takes_one_worker_and_more_when_they_would_be_idle() -> None:
    found = groups(film())
    assert found.group == GroupShape()
    assert [shape.size for shape in found.joined] == list(range(2, 9))
    assert {shape.size: shape for shape in found.joined if shape.size in (2, 4, 8)} == {
        2: GroupShape(cfg=2),
        4: GroupShape(cfg=2, ulysses=2),
        8: GroupShape(cfg=2, ulysses=4),
    }
    assert groups(film(guidance_scale=1.0)).joined[-1] == GroupShape(ulysses=8)
    assert groups(film("df-1.3b-540p"), num_workers=16).joined[-1] == GroupShape(cfg=2, ulysses=4, ring=2)
    assert groups(film(), num_workers=1) == FilmGroups(group=GroupShape())


def test_a_film_that_is_too_large_for_one_worker_gets_the_smallest_group_that_it_fits() -> None:
    plan, sizes = film(), sizes_of_preset(PRESETS["df-14b-540p"])
    needs = {
        tokens: ceil(
            estimate_memory(plan, sizes, shape=GroupShape(cfg=2, ulysses=tokens)).least_bytes / usable_bytes(100) * 100
        )
        for tokens in (1, 2, 4)
    }
    assert needs[1] > needs[2] > needs[4]
    assert groups(plan, memory_bytes=needs[1]).group == GroupShape(cfg=2)
    assert groups(plan, memory_bytes=needs[2]).group == GroupShape(ring=3)
    assert groups(plan, memory_bytes=needs[4]).joined == (GroupShape(cfg=2, ulysses=4),)
    assert groups(plan, memory_bytes=200 * GIB) == groups(plan)
    # Nothing fits: a smaller memory mode will have to do, and no worker is needed for it.
    assert groups(plan, memory_bytes=1 * GIB) == groups(plan)


def test_what_a_job_names_is_kept() -> None:
    found = groups(film(ulysses=2))
    assert found.group == GroupShape(ulysses=2)
    assert found.joined and all(shape.ulysses == 2 for shape in found.joined)
    assert found.joined[-1].size == 8
    assert groups(film(ring=1, cfg_parallel=1, ulysses=5)) == FilmGroups(group=GroupShape(ulysses=5))
    assert groups(film(ulysses=8, cfg_parallel=2)).group == GroupShape(cfg=2, ulysses=8), "more than the host has"
    assert groups(film(cfg_parallel=2, guidance_scale=1.0)).group == GroupShape(), "off where guidance is"


def test_a_slow_interconnect_makes_smaller_groups() -> None:
    slow = GroupMachine(operations_per_s=4e14, bytes_per_s=1e9, exchange_s=4e-5)
    assert groups(film("df-1.3b-540p"), slow).joined == (GroupShape(cfg=2),), "the branches meet once a step"
    assert groups(film("df-1.3b-540p"), PCIE_NODE).joined[-1].size == 8
    assert groups(film("df-1.3b-540p", guidance_scale=1.0), slow).joined == ()


def test_a_group_must_be_worth_its_forming_in_every_segment() -> None:
    plan, steps = film("df-1.3b-540p", num_inference_steps=30), 30
    quick, slow = (replace(NVLINK_NODE, forming_s=seconds) for seconds in (0.0, 1e4))
    assert groups(plan, slow).joined == ()
    work = step_work(plan, sizes_of_preset(PRESETS["df-1.3b-540p"]).transformer)
    group_s = steps * step_seconds(work, GroupShape(cfg=2, ulysses=4), NVLINK_NODE)
    ratio = groups(plan, quick).joined_speeds[-1] / groups(plan).joined_speeds[-1]
    assert ratio == pytest.approx(1 + NVLINK_NODE.forming_s / group_s)
    assert ratio > 1.1, "a tenth of a segment of the small model"


def test_the_machine_is_measured_or_guessed() -> None:
    assert machine_of(GroupOptions(), "cpu") == CPU_NODE
    assert machine_of(GroupOptions(), "cuda") == NVLINK_NODE
    assert machine_of(GroupOptions(interconnect="pcie"), "cuda") == PCIE_NODE
    settings = load_settings(
        environment={"RENDER_FARM_GROUP_BYTES_PER_S": "3e10", "RENDER_FARM_GROUP_EXCHANGE_S": "1e-4"}
    )
    machine = machine_of(settings.group, "cuda")
    assert (machine.bytes_per_s, machine.exchange_s) == (3e10, 1e-4)
    assert machine_of(GroupOptions(forming_s=0.0), "cuda").forming_s == 0.0
    assert machine.operations_per_s == NVLINK_NODE.operations_per_s
    for name, value in (("BYTES_PER_S", "0"), ("EXCHANGE_S", "fast"), ("INTERCONNECT", "wire"), ("DECODE", "maybe")):
        with pytest.raises(UsageError, match=name.lower()):
            load_settings(environment={f"RENDER_FARM_GROUP_{name}": value})


def test_the_work_of_a_step_is_what_its_passes_compute() -> None:
    sizes = sizes_of_preset(PRESETS["df-14b-540p"]).transformer
    synchronous = step_work(film(), sizes)
    assert synchronous.num_tokens == 25 * 34 * 60 and synchronous.num_branches == 2
    full = step_work(film(ar_step=5, causal_block_size=5), sizes)
    assert full.num_tokens == synchronous.num_tokens
    lagging = step_work(film(ar_step=5, causal_block_size=5, block_attention="causal"), sizes)
    assert 0 < lagging.num_tokens < synchronous.num_tokens


SHAPES = st.builds(GroupShape, cfg=st.sampled_from([1, 2]), ulysses=st.integers(1, 64), ring=st.integers(1, 32))
WORKS = st.builds(
    StepWork,
    num_tokens=st.floats(1, 2e5),
    tokens_per_frame=st.none() | st.integers(1, 5000),
    width=st.integers(16, 8192),
    num_layers=st.integers(1, 60),
    ffn_width=st.integers(16, 30000),
    num_branches=st.sampled_from([1, 2]),
)
MACHINES = st.builds(
    GroupMachine,
    operations_per_s=st.floats(1e8, 1e16),
    bytes_per_s=st.floats(1e6, 1e13),
    exchange_s=st.floats(1e-7, 1.0),
    forming_s=st.floats(0.0, 100.0),
)


@settings(max_examples=60, deadline=None)
@given(WORKS, MACHINES, st.integers(1, 64), st.integers(1, 5000), st.integers(1, 40), st.integers(1, 100), st.data())
def test_what_is_chosen_is_possible(
    work: StepWork,
    machine: GroupMachine,
    heads: int,
    tokens: int,
    num_workers: int,
    num_steps: int,
    data: st.DataObject,
) -> None:
    guided = work.num_branches == 2
    shapes = possible_shapes(num_heads=heads, tokens_per_frame=tokens, guided=guided, num_workers=num_workers)
    assert GroupShape() in shapes
    assert all(
        heads % shape.ulysses == 0
        and shape.sequence <= tokens
        and shape.size <= min(num_workers, MOST_WORKERS)
        and (guided or shape.cfg == 1)
        for shape in shapes
    )
    fitting = data.draw(st.sets(st.sampled_from(shapes)))
    found = choose_groups(shapes, work, machine, num_steps=num_steps, fits=fitting.__contains__)
    allowed = fitting or set(shapes)
    assert {found.group, *found.joined} <= allowed
    assert found.group.size == min(shape.size for shape in allowed)
    sizes = [shape.size for shape in (found.group, *found.joined)]
    times = [step_seconds(work, shape, machine) for shape in (found.group, *found.joined)]
    assert sizes == sorted(set(sizes)) and times == sorted(times, reverse=True)
    assert all(efficiency(work, shape, machine) >= WORTH for shape in found.joined)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from(["df-1.3b-540p", "df-14b-540p", "df-14b-720p"]), st.integers(1, 40), st.booleans())
def test_a_refusal_names_what_would_work(asked: GroupShape, model: str, size: int, guided: bool) -> None:
    spec = spec_of_preset(model)

    def problems(shape: GroupShape) -> list[str]:
        columns: dict[str, Any] = {"ulysses": shape.ulysses, "ring": shape.ring, "cfg_parallel": shape.cfg}
        job = RenderJob(
            job_id="a", prompt="p", height=16 * size, width=32, guidance_scale=6.0 if guided else 1.0, **columns
        )
        return [str(problem) for problem in check_group(resolve_job(job, spec), spec)]

    found = problems(asked)
    possible = possible_shapes(num_heads=spec.num_heads, tokens_per_frame=2 * size, guided=guided, num_workers=16)
    effective = GroupShape(cfg=asked.cfg if guided else 1, ulysses=asked.ulysses, ring=asked.ring)
    assert bool(found) == (effective not in possible)
    if not found:
        return
    text = found[0]
    advice = text.rpartition("; ")[2]
    whole = re.match(r"cfg (\d+) x ulysses (\d+) x ring (\d+) would work", advice)
    if whole:
        named = [GroupShape(cfg=int(whole[1]), ulysses=int(whole[2]), ring=int(whole[3]))]
        assert named == [nearest_shape(effective, possible)]
    else:
        field = text.partition(":")[0]
        degrees = re.findall(r"\d+", advice.partition(" would work")[0])
        named = [
            GroupShape(
                cfg=effective.cfg,
                ulysses=int(degree) if field == "ulysses" else effective.ulysses,
                ring=int(degree) if field == "ring" else effective.ring,
            )
            for degree in degrees
        ]
        if ring := re.search(r"or ring (\d+) without ulysses", advice):
            named.append(GroupShape(cfg=effective.cfg, ring=int(ring[1])))
    assert named and all(problems(shape) == [] for shape in named), text


def test_asked_degrees_allow_shapes_that_keep_them() -> None:
    assert AskedDegrees(ulysses=2).allow(GroupShape(cfg=2, ulysses=2, ring=4))
    assert AskedDegrees(ulysses=2, ring=3).num_workers == 6
    assert not AskedDegrees(ring=1).allow(GroupShape(ring=2))
