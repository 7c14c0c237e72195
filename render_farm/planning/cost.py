"""How much work a segment is, in token passes: tokens times the forward passes that see them.

Used for ordering and for estimates of time left; seconds come from measuring how long earlier passes took.
"""

from __future__ import annotations

from typing import Any

from render_farm.planning.film import FilmPlan
from render_farm.planning.schedule import NOT_STARTED


def segment_token_passes(plan: FilmPlan, segment: int) -> int:
    """Tokens the denoiser computes for a segment, both guidance branches counted.

    With causal blocks, a pass skips blocks that have not started. It also skips finished blocks, unless noise is added
    to the prefix at every step, because then everything after it changes.
    """
    schedule = plan.schedule(segment)
    frames = 0
    skips = schedule.is_causal
    caches = skips and not plan.prefix_changes(segment)
    finished = schedule.num_inference_steps + 1
    for row, branches in zip(schedule.indices, plan.num_branches(segment), strict=True):
        blocks = sum(not (skips and index == NOT_STARTED) and not (caches and index == finished) for index in row)
        frames += branches * (blocks * schedule.block_size + plan.windows[segment].num_last_image_frames)
    return frames * plan.tokens_per_frame


class TokenPasses:
    """Token passes of each segment of films; those of one shape are counted once, and are one tuple."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[int, ...]] = {}

    def of(self, plan: FilmPlan) -> tuple[int, ...]:
        job = plan.job
        shape = (
            plan.tokens_per_frame,
            plan.windows,
            job.num_inference_steps,
            job.flow_shift,
            job.ar_step,
            job.causal_block_size,
            job.block_attention,
            job.addnoise_condition,
            job.prefix_noise,
            job.guided,
            plan.num_guided_steps,
        )
        if shape not in self._known:
            self._known[shape] = tuple(segment_token_passes(plan, segment) for segment in range(plan.num_segments))
        return self._known[shape]
