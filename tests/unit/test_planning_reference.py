"""Windows and timestep schedules against diffusers' own loop and matrix, on random parameters."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.planning import make_schedule, plan_film, spec_of_preset
from render_farm.planning.schedule import flow_sigmas, flow_timesteps, most_inference_steps

FACTS = replace(spec_of_preset("tiny"), patch=2)  # films of 16x16 keep the reference loop quick


def scheduler(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)


class Denoiser:
    """Stands where the transformer would and notes what it is given: the loop around it is what is under test."""

    dtype = torch.float32
    config = SimpleNamespace(in_channels=1, num_frame_per_block=1)

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def cache_context(self, name):
        return nullcontext()

    def _set_ar_attention(self, causal_block_size):
        pass

    def __call__(self, hidden_states, timestep, **_):
        assert hidden_states.shape[2] == timestep.shape[1]
        self.calls.append(tuple(timestep[0].tolist()))
        return (torch.zeros_like(hidden_states),)


class ReferenceLoop(SkyReelsV2DiffusionForcingPipeline):
    """The reference's own `__call__` with nothing to load."""

    _execution_device = torch.device("cpu")
    config = SimpleNamespace()

    def __init__(self, shift: float) -> None:
        self.__dict__.update(
            vae_scale_factor_temporal=4,
            vae_scale_factor_spatial=8,
            scheduler=scheduler(shift),
            transformer=Denoiser(),
        )

    def maybe_free_model_hooks(self):
        pass

    def encode_prompt(self, **_):
        return torch.zeros(1, 1, 1), None

    def progress_bar(self, total):
        return nullcontext(SimpleNamespace(update=lambda: None))

    def run(self, **kwargs):
        """The timesteps of every forward pass, and the latent frames of the result."""
        latents = self(
            prompt="x", height=16, width=16, guidance_scale=1.0, output_type="latent", return_dict=False, **kwargs
        )[0]
        return self.transformer.calls, latents.shape[2]


def planned_calls(plan) -> list[tuple[int, ...]]:
    calls = []
    for segment in range(plan.num_segments):
        schedule = plan.schedule(segment)
        for row in range(schedule.num_rows):
            calls.append(tuple(t for t in schedule.timestep_row(row) for _ in range(schedule.block_size)))
    return calls


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


@settings(max_examples=250, deadline=None)
@given(
    num_frames=st.integers(1, 90),
    base=st.integers(5, 40),
    overlap=st.integers(1, 36),
    block=st.sampled_from([1, 1, 2, 3]),
    ar_step=st.sampled_from([0, 0, 1, 2]),
    num_steps=st.integers(1, 2),
)
def test_windows_equal_the_reference_loop(num_frames, base, overlap, block, ar_step, num_steps):
    job = RenderJob(
        job_id="a",
        prompt="x",
        num_frames=num_frames,
        base_num_frames=base,
        overlap_history=overlap,
        causal_block_size=block,
        ar_step=ar_step,
        num_inference_steps=num_steps,
        height=16,
        width=16,
    )
    try:
        plan = plan_film(job, FACTS)
    except InvalidJobError:
        assume(False)
    calls, num_latent_frames = ReferenceLoop(FACTS.defaults.flow_shift).run(
        num_frames=num_frames,
        base_num_frames=base,
        overlap_history=overlap,
        causal_block_size=block,
        ar_step=ar_step,
        num_inference_steps=num_steps,
    )
    assert planned_calls(plan) == calls
    assert plan.num_latent_frames == num_latent_frames
    assert sum(window.num_kept_frames for window in plan.windows) == num_latent_frames


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
