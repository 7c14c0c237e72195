"""Shapes of render groups: what a job may ask for, what is chosen, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from render_farm import RenderJob
from render_farm.planning import resolve_job, spec_of_preset
from render_farm.planning.group_cost import NVLINK_NODE, StepWork, rank_bytes, rank_operations, step_seconds
from render_farm.planning.groups import GroupShape, check_group, group_of

FACTS = spec_of_preset("df-1.3b-540p")
WORK = StepWork(num_tokens=51_000, width=1536, num_layers=30, ffn_width=8960)


def problems(model: str = "df-1.3b-540p", **degrees: Any) -> list[str]:
    spec = spec_of_preset(model)
    return [
        str(problem) for problem in check_group(resolve_job(RenderJob(job_id="a", prompt="p", **degrees), spec), spec)
    ]


@pytest.mark.parametrize("ulysses", [1, 2, 3, 4, 6, 12])
def test_degrees_that_divide_the_heads_work(ulysses: int) -> None:
    assert problems(ulysses=ulysses) == []


def test_impossible_degrees_are_refused_with_the_nearest_possible_ones() -> None:
    assert problems(ulysses=8) == [
        "ulysses: 8 does not divide the 12 attention heads of df-1.3b-540p; 6 or 12 would work (or ring 8 without "
        "ulysses, which needs no heads)"
    ]
    assert problems(ulysses=24)[0].endswith("the 12 attention heads of df-1.3b-540p; ulysses 12 would work")
    assert problems("df-14b-540p", ulysses=8, cfg_parallel=2) == []
    assert problems("df-14b-540p", ulysses=20) == [
        "ulysses: cfg 1 x ulysses 20 x ring 1 are 20 workers for one segment, and the most is 16; ulysses 10 would work"
    ]
    assert problems(ulysses=4, ring=8)[0].endswith("the most is 16; ring 4 would work")
    assert problems(ring=16, height=32, width=64) == [
        "ring: 16 workers cannot share the 8 tokens of a latent frame of 32x64; ring 8 would work"
    ]


def test_the_nearest_degrees_go_with_the_others_that_are_asked_for() -> None:
    """6 divides the heads, but 2 x 6 x 2 are too many workers."""
    assert problems(ulysses=5, ring=2, cfg_parallel=2)[0].endswith("4 would work")
    assert problems(ulysses=5, ring=16, cfg_parallel=2)[0].endswith("cfg 2 x ulysses 4 x ring 2 would work")


def test_cfg_is_off_where_guidance_is() -> None:
    job = resolve_job(RenderJob(job_id="a", prompt="p", cfg_parallel=2, ulysses=2), FACTS)
    assert group_of(job) == GroupShape(cfg=2, ulysses=2)
    assert group_of(replace(job, guidance_scale=1.0)) == GroupShape(ulysses=2)


def test_costs_follow_the_formulas() -> None:
    assert set(rank_bytes(WORK, GroupShape()).values()) == {0.0}
    unit = 51_000 / 4 * 1536 * 2
    sent = rank_bytes(WORK, GroupShape(cfg=2, ulysses=4))
    assert sent["ulysses"] == pytest.approx(4 * 0.75 * 29.5 * unit)
    assert sent["first_layer"] == pytest.approx(unit / 2)
    assert sent["predictions"] == pytest.approx(7 * 51_000 / 4 * 64 * 2)
    assert rank_bytes(WORK, GroupShape(cfg=2, ring=4))["ring"] == pytest.approx(2 * 3 * 29.5 * unit)
    assert rank_operations(WORK, GroupShape(cfg=2, ulysses=4)) == pytest.approx(rank_operations(WORK, GroupShape()) / 8)
    times = [step_seconds(WORK, GroupShape(cfg=2, ulysses=degree), NVLINK_NODE) for degree in (1, 2, 4)]
    assert times == sorted(times, reverse=True)


def test_padding_of_the_slices_is_counted() -> None:
    work = replace(WORK, num_tokens=25 * 15, tokens_per_frame=15)
    padded = replace(WORK, num_tokens=25 * 16)
    for shape in (GroupShape(ulysses=4), GroupShape(cfg=2, ulysses=2, ring=4)):
        assert rank_bytes(work, shape) == pytest.approx(rank_bytes(padded, shape))
    assert rank_bytes(work, GroupShape(ulysses=3)) == rank_bytes(
        replace(work, tokens_per_frame=None), GroupShape(ulysses=3)
    )


def test_the_first_layer_is_shared_where_the_heads_allow_it() -> None:
    """12 heads: 6 for each half, which 4 workers cannot share out."""
    work = replace(WORK, num_heads=12)
    assert rank_bytes(work, GroupShape(cfg=2, ulysses=4))["first_layer"] == 0.0
    assert rank_bytes(work, GroupShape(cfg=2, ulysses=2))["first_layer"] > 0.0
    assert rank_bytes(replace(work, num_branches=1), GroupShape(ulysses=2))["first_layer"] == 0.0
    assert rank_operations(work, GroupShape(cfg=2)) == pytest.approx(rank_operations(work, GroupShape()) / 2)
    assert rank_operations(work, GroupShape(cfg=2, ulysses=4)) > rank_operations(work, GroupShape()) / 8
