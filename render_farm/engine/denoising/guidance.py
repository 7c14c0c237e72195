"""Classifier-free guidance: how the predictions with and without the prompt become one.

Shapes: B batch (1), C channels, F latent frames, h w latent height and width; R rows of the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from render_farm.engine.denoising.rows import guided_frames
from render_farm.planning import FilmPlan


class Guidance:
    """That of one window. Where a job asks for guidance in part of the steps, each frame keeps the last difference of
    the two branches from then on, and the second branch is not computed."""

    def __init__(self, plan: FilmPlan, segment: int, *, like: Tensor) -> None:
        """`like` has the shape and device of the window's latents, and the model's dtype."""
        schedule = plan.schedule(segment)
        self._scale = plan.job.guidance_scale
        self._branches = plan.num_branches(segment)
        self._kept: Tensor | None = None
        if plan.job.is_guided_in_part:
            self._kept = torch.zeros_like(like)
            fresh = guided_frames(schedule, plan.num_guided_steps).to(like.device)
            self._fresh = fresh[:, None, None, :, None, None]

    def num_branches(self, row: int) -> int:
        """How many branches are computed in `row`, the one with the prompt first."""
        return self._branches[row]

    def mix(self, predictions: tuple[Tensor, ...], *, row: int, start: int, stop: int) -> Tensor:
        """The flow (B C F h w) of frames [start, stop), in the model's dtype. `predictions` begin with `start`."""
        with_prompt, *others = (prediction[:, :, : stop - start] for prediction in predictions)
        difference = with_prompt - others[0] if others else None
        if self._kept is None:
            return with_prompt if difference is None else others[0] + self._scale * difference
        kept = self._kept[:, :, start:stop]
        if difference is None:
            return with_prompt + (self._scale - 1) * kept
        fresh = self._fresh[row, :, :, start:stop]
        kept = torch.where(fresh, difference, kept)
        self._kept[:, :, start:stop] = kept
        return torch.where(fresh, others[0] + self._scale * difference, with_prompt + (self._scale - 1) * kept)

    def state(self) -> dict[str, Tensor]:
        """What it keeps of the frames, (B C F h w)."""
        return {} if self._kept is None else {"difference": self._kept}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Keep what `state` gave."""
        if self._kept is not None:
            self._kept.copy_(state["difference"])
