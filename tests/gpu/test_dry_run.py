"""Every published checkpoint at its own size, on a fake GPU: it takes what planning counts."""

from __future__ import annotations

import pytest
import torch

from render_farm.models import PRESETS
from render_farm.planning import FilmPlan
from render_farm.planning.memory import activation_bytes, window_cache_bytes
from render_farm.planning.model_sizes import ModelSizes
from render_farm.planning.roofline import EAGER_TRAFFIC, segment_work
from tests.helpers.dry_run import LAYERS, MODES, DryRun, dry_run, fake_transformer, film

CASES = [
    (name, task, mode)
    for name, preset in PRESETS.items()
    for task in preset.tasks
    for mode in (MODES if "v2v" in preset.tasks and task in ("t2v", "v2v") else ["synchronous"])
    if preset.hub_id
]
QUICK = [("df-1.3b-540p", "t2v", "synchronous"), ("df-14b-720p", "t2v", "causal blocks")]


def check(plan: FilmPlan, sizes: ModelSizes, counted: DryRun, *, keeps: bool = True) -> None:
    work = segment_work(plan, 0, sizes, with_cache=keeps)
    attention = work.attention + work.cross_attention
    assert counted.operations["matrix"] == pytest.approx(work.matrix, rel=0.05)
    assert counted.operations["attention"] == pytest.approx(attention, rel=0.05)
    expected = activation_bytes(plan, 0, sizes.transformer, with_cache=keeps)
    expected += window_cache_bytes(plan, 0, sizes.transformer) if keeps else 0
    assert expected == pytest.approx(counted.peak_bytes, rel=0.05)


@pytest.mark.parametrize(
    ("name", "task", "mode"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_a_window_takes_the_operations_and_the_memory_that_are_planned(name: str, task: str, mode: str) -> None:
    plan, sizes = film(name, task, mode)
    counted = dry_run(fake_transformer(name, num_layers=LAYERS), plan)
    check(plan, sizes, counted)
    if mode == "synchronous":  # a little more for 1.3B, whose feed-forward is wider
        traffic = counted.moved_bytes["elementwise"] / work_bytes(plan, sizes)
        # A CPU build of torch does not have the RMS norm as one operation, and its parts count.
        wanted = EAGER_TRAFFIC if torch.version.cuda else 177
        assert traffic == pytest.approx(wanted, rel=0.15)
    print(
        f"{name} {task} {mode}: {counted.operations['matrix'] / 1e15:.3g} + "
        f"{counted.operations['attention'] / 1e15:.3g} PFLOP, {counted.num_kernels} kernels, "
        f"{counted.moved_bytes['elementwise'] / work_bytes(plan, sizes):.0f} T element-wise, "
        f"peak {counted.peak_bytes / 1e9:.2f} GB"
    )


def work_bytes(plan: FilmPlan, sizes: ModelSizes) -> float:
    return segment_work(plan, 0, sizes).token_layers * 2 * sizes.transformer.dim


def test_without_room_for_finished_blocks_they_are_computed_again() -> None:
    plan, sizes = film("df-1.3b-540p", "t2v", "causal blocks")
    counted = dry_run(fake_transformer("df-1.3b-540p", num_layers=LAYERS), plan, keeps=False)
    check(plan, sizes, counted, keeps=False)
