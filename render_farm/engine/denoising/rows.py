"""The rows of a window's schedule, frame by frame: R rows, F latent frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from render_farm.engine.transformer.span import FrameSpan
from render_farm.planning import StepSchedule


def frame_steps(schedule: StepSchedule) -> Tensor:
    """The sampler's step of each frame in each row, (R, F)."""
    return (_per_frame(schedule.indices, schedule.block_size) - 1).clamp(0, schedule.num_inference_steps - 1)


def frame_timesteps(
    schedule: StepSchedule, *, num_prefix: int, prefix_timestep: int, num_last_image: int = 0
) -> Tensor:
    """The timestep of each frame in each row, (R, F): the prefix has its own, a last image 0."""
    rows = map(schedule.timestep_row, range(schedule.num_rows))
    are_whole = all(isinstance(timestep, int) for timestep in schedule.timesteps)
    timesteps = _per_frame(rows, schedule.block_size, torch.int64 if are_whole else torch.float32)
    timesteps[:, :num_prefix] = prefix_timestep
    return torch.nn.functional.pad(timesteps, (0, num_last_image))


def guided_frames(schedule: StepSchedule, num_guided_steps: int) -> Tensor:
    """Whether each frame is, in each row, in a step that needs both guidance branches, (R, F) bool."""
    return _per_frame(schedule.indices, schedule.block_size) <= num_guided_steps


def moving_frames(schedule: StepSchedule, row: int) -> tuple[int, int]:
    """The frames [first, end) that this row moves: blocks before are finished, blocks after have not started."""
    updates = schedule.updates[row]
    first, count = updates.index(True), sum(updates)
    assert all(updates[first : first + count]), "moving blocks are neighbours"
    return first * schedule.block_size, (first + count) * schedule.block_size


def window_spans(schedule: StepSchedule, *, caches: bool, num_last_image: int = 0) -> Iterator[FrameSpan]:
    """The frames that are computed in each row of a window's schedule. With causal blocks nothing sees the blocks that
    have not started, so they are skipped. Finished blocks have timestep 0 and latents that stay: the first pass in
    which they do writes their keys and values. Where every frame sees every frame, all are computed.
    """
    num_cached = 0
    for row in range(schedule.num_rows):
        first, end = moving_frames(schedule, row)
        if not schedule.is_causal:
            yield FrameSpan(
                start=0, stop=schedule.num_blocks * schedule.block_size + num_last_image, output_start=first
            )
            continue
        assert not num_last_image, "a film with a last image has no blocks"
        num_stored = first - num_cached if caches else 0
        yield FrameSpan(
            start=num_cached, stop=end, output_start=first, num_stored=num_stored, block_size=schedule.block_size
        )
        num_cached += num_stored


def _per_frame(rows: Iterable[Iterable[float]], block_size: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Values of blocks (rows x blocks) as values of frames, (R, F)."""
    return torch.tensor([list(row) for row in rows], dtype=dtype).repeat_interleave(block_size, dim=1)
