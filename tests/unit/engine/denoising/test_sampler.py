"""The vectorised sampler against diffusers' `UniPCMultistepScheduler`, one a frame, as the pipeline runs them."""

from __future__ import annotations

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from render_farm.engine.denoising.sampler import FrameSampler, unipc_table
from render_farm.planning.schedule import flow_sigmas


def schedulers_of(num_frames: int, num_steps: int, shift: float) -> list[UniPCMultistepScheduler]:
    made = []
    for _ in range(num_frames):
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=1000
        )
        scheduler.set_timesteps(num_steps)
        made.append(scheduler)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(("num_steps", "shift"), [(1, 3.0), (2, 3.0), (3, 8.0), (4, 1.0), (12, 8.0), (50, 5.0)])
def test_every_frame_at_its_own_step(num_steps: int, shift: float, corrected: bool, dtype: torch.dtype) -> None:
    """Frame f starts f rows late; bit-equal on the CPU."""
    num_frames, num_rows = 3, num_steps + 2
    generator = torch.Generator().manual_seed(num_steps)
    start = torch.randn((1, 4, num_frames, 2, 3), generator=generator)
    ours, theirs = start.clone(), start.clone()
    rows = torch.arange(num_rows)[:, None] - torch.arange(num_frames)[None]
    sampler = FrameSampler(
        ours, sigmas=flow_sigmas(num_steps, shift), steps=rows.clamp(0, num_steps - 1), corrected=corrected
    )
    schedulers = schedulers_of(num_frames, num_steps, shift)
    for row in range(num_rows):
        moving = [f for f in range(num_frames) if 0 <= row - f < num_steps]
        flow = torch.randn(start.shape, generator=generator).to(dtype)
        for f in moving:
            sample = theirs[:, :, f].clone() if corrected else theirs[:, :, f]
            timestep = schedulers[f].timesteps[row - f]
            theirs[:, :, f] = schedulers[f].step(flow[:, :, f], timestep, sample, return_dict=False)[0]
        first, end = moving[0], moving[-1] + 1
        sampler.step(flow[:, :, first:end], row=row, start=first, stop=end)
        assert torch.equal(ours, theirs), row


def test_corrected_and_reference_differ_from_the_second_step_on() -> None:
    films = []
    for corrected in (False, True):
        latents = torch.ones(1, 1, 1, 1, 1)
        sampler = FrameSampler(latents, sigmas=flow_sigmas(3, 3.0), steps=torch.arange(3)[:, None], corrected=corrected)
        states = []
        for row in range(3):
            sampler.step(torch.full((1, 1, 1, 1, 1), 0.5 - row), row=row, start=0, stop=1)
            states.append(latents.item())
        films.append(states)
    (first, second, _), (first_corrected, second_corrected, _) = films
    assert first == first_corrected
    assert second != second_corrected


def test_coefficients_are_finite_though_the_last_level_is_zero() -> None:
    for num_steps in (1, 2, 3, 30, 200):
        assert torch.isfinite(unipc_table(flow_sigmas(num_steps, 3.0))).all()
