"""The timestep schedule of one window: which noise level each block has at each step, and which blocks move.

The same numbers as `SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix` (per block instead of per frame) and
as `UniPCMultistepScheduler.set_timesteps` with flow sigmas.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from render_farm.models import CAUSAL

NUM_TRAIN_TIMESTEPS = 1000
NOT_STARTED = 0
FIRST_TIMESTEP = 999
"""What diffusers gives the model for a block that has not started."""


@dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """Rows are denoising steps, columns blocks of `block_size` latent frames."""

    timesteps: tuple[float, ...]
    """The template: one timestep for each of the N inference steps. Whole numbers, but for the steps of a list in a
    model without diffusion forcing."""
    sigmas: tuple[float, ...]
    """N + 1 noise levels in double precision, the last 0."""
    block_size: int
    is_causal: bool
    """Whether a block sees only itself and those before it. False: every frame sees every frame, and nothing can be
    skipped or kept."""
    indices: tuple[tuple[int, ...], ...]
    """0: not started; i in 1..N: at template step i - 1; N + 1: finished."""
    updates: tuple[tuple[bool, ...], ...]
    """Whether the block is moved by this step."""

    @property
    def num_inference_steps(self) -> int:
        return len(self.timesteps)

    @property
    def num_rows(self) -> int:
        return len(self.indices)

    @property
    def num_blocks(self) -> int:
        return len(self.indices[0])

    def timestep(self, index: int) -> float:
        """The timestep of a block at `index` (see `indices`)."""
        if index == NOT_STARTED:
            return FIRST_TIMESTEP
        return 0 if index > len(self.timesteps) else self.timesteps[index - 1]

    def timestep_row(self, row: int) -> tuple[float, ...]:
        """The timestep of every block in `row`."""
        return tuple(map(self.timestep, self.indices[row]))


@lru_cache(maxsize=256)
def flow_sigmas(num_inference_steps: int, flow_shift: float) -> tuple[float, ...]:
    """Noise levels of the flow-matching schedule, N + 1 of them, the last 0 (double precision, as numpy computes)."""
    spacing = (1 / NUM_TRAIN_TIMESTEPS - 1) / num_inference_steps
    sigmas = []
    for i in range(num_inference_steps):
        linear = i * spacing + 1.0
        sigmas.append(flow_shift * linear / (1 + (flow_shift - 1) * linear))
    if abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6  # diffusers' guard against log(0) in the first step
    return (*sigmas, 0.0)


def flow_timesteps(num_inference_steps: int, flow_shift: float) -> tuple[int, ...]:
    """The integer timesteps that the model gets, one per step."""
    return tuple(int(sigma * NUM_TRAIN_TIMESTEPS) for sigma in flow_sigmas(num_inference_steps, flow_shift)[:-1])


def listed_sigmas(step_list: Sequence[int], flow_shift: float) -> tuple[float, ...]:
    """Noise levels of the listed steps (in thousandths, before the shift), and a last 0: those of
    `FlowMatchLCMScheduler`, which computes in single precision."""
    shift, less = _single(flow_shift), _single(flow_shift - 1)
    sigmas = []
    for step in step_list:
        linear = _single(step / NUM_TRAIN_TIMESTEPS)
        sigmas.append(_single(_single(shift * linear) / _single(1 + _single(less * linear))))
    return (*sigmas, 0.0)


def _single(number: float) -> float:
    """Rounded to single precision."""
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded


@lru_cache(maxsize=64)
def most_inference_steps(flow_shift: float) -> int:
    """The most steps before two of them truncate to the same integer timestep.

    diffusers finds a step by its integer timestep, so a collision would skip or repeat one.
    """
    steps = 1
    while steps < NUM_TRAIN_TIMESTEPS and _distinct(flow_timesteps(steps + 1, flow_shift)):
        steps += 1
    return steps


def _distinct(timesteps: tuple[int, ...]) -> bool:
    return len(set(timesteps)) == len(timesteps)


@lru_cache(maxsize=256)
def make_schedule(
    *,
    num_latent_frames: int,
    num_prefix_frames: int,
    num_inference_steps: int,
    flow_shift: float,
    ar_step: int,
    causal_block_size: int,
    block_attention: str = CAUSAL,
    step_list: tuple[int, ...] = (),
    has_whole_timesteps: bool = True,
) -> StepSchedule:
    """The schedule of a window of `num_latent_frames`, the first `num_prefix_frames` of which are already finished.

    `step_list` names the steps instead of `num_inference_steps`. The diffusion-forcing pipelines cut their timesteps
    down to whole numbers (`has_whole_timesteps`), the others do not.
    """
    timesteps: tuple[float, ...]
    if step_list:
        sigmas = listed_sigmas(step_list, flow_shift)
        timesteps = tuple(_single(sigma * NUM_TRAIN_TIMESTEPS) for sigma in sigmas[:-1])
        if has_whole_timesteps:
            timesteps = tuple(map(int, timesteps))
    else:
        sigmas = flow_sigmas(num_inference_steps, flow_shift)
        timesteps = flow_timesteps(num_inference_steps, flow_shift)
    num_blocks = num_latent_frames // causal_block_size
    indices, updates = _rows(num_blocks, num_prefix_frames // causal_block_size, num_inference_steps, ar_step)
    return StepSchedule(
        timesteps=timesteps,
        sigmas=sigmas,
        block_size=causal_block_size,
        is_causal=causal_block_size > 1 and block_attention == CAUSAL,
        indices=indices,
        updates=updates,
    )


@lru_cache(maxsize=64)
def branches_by_row(schedule: StepSchedule, num_guided_steps: int) -> tuple[int, ...]:
    """How many guidance branches each row computes when a block needs both in its first steps only.

    One pass computes all moving blocks: both branches as long as one of them needs both. With causal blocks also where
    a block has just finished, while later rows need its keys and values in both branches.
    """
    needs = [
        any(moves and index <= num_guided_steps for index, moves in zip(indices, updates, strict=True))
        for indices, updates in zip(schedule.indices, schedule.updates, strict=True)
    ]
    branches: list[int] = []
    is_needed_later = False
    for row in reversed(range(schedule.num_rows)):
        first = schedule.updates[row].index(True)
        has_finished = row > 0 and schedule.updates[row - 1].index(True) < first
        branches.append(2 if needs[row] or (schedule.is_causal and has_finished and is_needed_later) else 1)
        is_needed_later |= needs[row]
    return tuple(reversed(branches))


def _rows(
    num_blocks: int, num_ready: int, num_steps: int, ar_step: int
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[bool, ...], ...]]:
    """Advance all blocks row by row until every one has made its last step.

    The first block, and one whose predecessor has made its last step, moves by one; any other lags its predecessor
    by `ar_step`.
    """
    finished = num_steps + 1
    previous = [finished] * num_ready + [NOT_STARTED] * (num_blocks - num_ready)
    indices, updates = [], []
    while any(index < num_steps for index in previous):
        row: list[int] = []
        for block in range(num_blocks):
            if block == 0 or previous[block - 1] >= num_steps:
                row.append(previous[block] + 1)
            else:
                row.append(row[block - 1] - ar_step)
        row = [min(max(index, NOT_STARTED), finished) for index in row]
        indices.append(tuple(row))
        updates.append(tuple(new != old and new != finished for new, old in zip(row, previous, strict=True)))
        previous = row
    return tuple(indices), tuple(updates)
