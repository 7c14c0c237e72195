"""Windows and timestep schedules against diffusers' own loop and matrix, on random parameters."""

from __future__ import annotations

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from render_farm.planning import make_schedule
from render_farm.planning.schedule import branches_by_row, flow_sigmas, flow_timesteps, most_inference_steps
from tests.helpers.reference_loop import scheduler


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    num_steps=st.integers(1, 12),
    shift=st.sampled_from([1.0, 3.0, 5.0, 8.0]),
    ar_step=st.integers(0, 14),
    block=st.integers(1, 6),
    num_blocks=st.integers(1, 8),
    num_prefix_blocks=st.integers(0, 7),
    extra=st.integers(0, 5),
)
def test_schedule_equals_generate_timestep_matrix(
    num_steps, shift, ar_step, block, num_blocks, num_prefix_blocks, extra
):
    assume(num_prefix_blocks < num_blocks)
    reference = scheduler(shift)
    reference.set_timesteps(num_steps)
    frames = num_blocks * block + min(extra, block - 1)
    matrix, index, update, interval = SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix(
        None, frames, reference.timesteps, frames, ar_step, num_prefix_blocks * block, block
    )
    ours = make_schedule(
        num_latent_frames=frames,
        num_prefix_frames=num_prefix_blocks * block,
        num_inference_steps=num_steps,
        flow_shift=shift,
        ar_step=ar_step,
        causal_block_size=block,
    )

    def widen(rows):
        return [[value for value in row for _ in range(block)] for row in rows]

    assert ours.timesteps == tuple(reference.timesteps.tolist())
    assert widen(ours.indices) == index.tolist()
    assert widen(ours.updates) == update.tolist()
    assert widen([ours.timestep_row(row) for row in range(ours.num_rows)]) == matrix.tolist()
    assert set(interval) == {(0, num_blocks * block)}


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_sigmas_and_timesteps_equal_the_scheduler(shift):
    for num_steps in (1, 2, 7, 30, 50, 100):
        reference = scheduler(shift)
        reference.set_timesteps(num_steps)
        ours = torch.tensor(flow_sigmas(num_steps, shift), dtype=torch.float64).float()
        assert torch.equal(ours, reference.sigmas)
        assert flow_timesteps(num_steps, shift) == tuple(reference.timesteps.tolist())


def test_the_most_inference_steps_is_where_integer_timesteps_collide():
    assert [most_inference_steps(shift) for shift in (8.0, 5.0, 3.0)] == [125, 200, 333]


def test_the_documented_example_of_fifty_rows():
    schedule = make_schedule(
        num_latent_frames=25,
        num_prefix_frames=0,
        num_inference_steps=30,
        flow_shift=8.0,
        ar_step=5,
        causal_block_size=5,
    )
    assert schedule.num_rows == 50
    # the documentation's row 6; its later rows are of an older scheduler, so only their pattern is compared
    assert schedule.timestep_row(5) == (975, 999, 999, 999, 999)
    assert schedule.indices[5] == (6, 1, 0, 0, 0)
    assert schedule.updates[5] == (True, True, False, False, False)
    assert schedule.indices[34] == (31, 30, 25, 20, 15)
    assert schedule.timestep_row(34)[0] == 0
    assert schedule.indices[49] == (31, 31, 31, 31, 30)
    assert schedule.updates[49] == (False, False, False, False, True)


@pytest.mark.parametrize("block_attention", ["causal", "full"])
@pytest.mark.parametrize("ar_step", [0, 1, 3, 6, 12])
@pytest.mark.parametrize("num_guided_steps", [1, 2, 5, 9, 10])
def test_both_branches_run_while_a_block_needs_them_or_what_it_leaves(num_guided_steps, ar_step, block_attention):
    schedule = make_schedule(
        num_latent_frames=12,
        num_prefix_frames=3,
        num_inference_steps=10,
        flow_shift=3.0,
        ar_step=ar_step,
        causal_block_size=3,
        block_attention=block_attention,
    )
    branches = branches_by_row(schedule, num_guided_steps)
    needs = [
        any(moves and index - 1 < num_guided_steps for moves, index in zip(updates, indices, strict=True))
        for updates, indices in zip(schedule.updates, schedule.indices, strict=True)
    ]
    assert all(number == 2 for number, needed in zip(branches, needs, strict=True) if needed)
    if ar_step == 0 or block_attention == "full":
        assert [number == 2 for number in branches] == needs
    # A kept block was computed in both branches in the row after its last step, if both are used later.
    for row in range(1, schedule.num_rows):
        finished = schedule.updates[row - 1].index(True) < schedule.updates[row].index(True)
        if schedule.is_causal and finished and any(needs[row + 1 :]):
            assert branches[row] == 2
    assert branches_by_row(schedule, 10) == (2,) * schedule.num_rows
