"""What the model sees of one window in each step.

Shapes: B batch (1), C channels, F latent frames, h w latent height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from render_farm.engine.conditioning.conditioning import Conditioning
from render_farm.engine.denoising.noise import PrefixNoise
from render_farm.engine.transformer.span import FrameSpan
from render_farm.planning import FilmPlan, Window

_ADDNOISE_UNIT = 0.001


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The first frames of a window, given by the segment before or by the job's image or video."""

    latents: Tensor
    """(B C F h w) in the model's dtype; F is 0 when there is none."""
    noise: PrefixNoise | None
    """None: they are shown clean."""
    factor: float
    timestep: int
    per_step: bool
    """Whether the noise is drawn again for every step."""

    @property
    def num_frames(self) -> int:
        return self.latents.shape[2]

    def shown(self) -> Tensor:
        """The prefix as the model sees it, with its noise drawn (`__call__`: `addnoise_condition`)."""
        if self.noise is None:
            return self.latents
        noise = self.noise.draw(tuple(self.latents.shape)).to(self.latents)
        return self.latents * (1.0 - self.factor) + noise * self.factor


class WindowInputs:
    """The window's frames after their prefix, and the images that go with them. Read row by row, in order."""

    def __init__(
        self, plan: FilmPlan, window: Window, history: Tensor | None, conditioning: Conditioning, *, like: Tensor
    ) -> None:
        """`history` are the film's last latents (B C F h w). `like` has the shape, dtype and device of the window's
        latents as the model takes them."""
        self._dtype = like.dtype
        given = conditioning.prefix if window.num_input_frames else history
        self.prefix = _prefix(plan, window, _needed(given, window.num_given_frames > 0, like), like)
        # Drawn before a stored state sets the noise's generator: with `prefix_noise: once` this is the one draw.
        self._shown = self.prefix.shown()
        self._last_image = _needed(conditioning.last_image, window.num_last_image_frames > 0, like)
        self.image_states = _needed(conditioning.image_states, window.has_image_channels, like)
        self._channels = _needed(conditioning.image_channels, window.has_image_channels, like)

    def of(self, latents: Tensor, row: int, span: FrameSpan) -> Tensor:
        """What the model is given in `row` for the frames of `span`, in its dtype."""
        prefix = self.prefix
        frames = latents[:, :, span.start : span.stop].to(self._dtype)
        if prefix.noise is not None and span.start == 0:
            if row and prefix.per_step:
                self._shown = prefix.shown()
            frames = torch.cat((self._shown, frames[:, :, prefix.num_frames :]), dim=2)
        if self._last_image is not None:  # one more frame, which is never moved
            frames = torch.cat((frames, self._last_image), dim=2)
        if self._channels is not None:
            frames = torch.cat((frames, self._channels[:, :, span.start : span.stop]), dim=1)
        return frames


def _needed(given: Tensor | None, is_needed: bool, like: Tensor) -> Tensor | None:
    """`given` with the dtype and device of `like`, where the window takes it."""
    if not is_needed:
        return None
    assert given is not None, "refused by check_conditioning and Engine.render_segment"
    return given.to(like)


def _prefix(plan: FilmPlan, window: Window, given: Tensor | None, like: Tensor) -> Prefix:
    """The prefix of `window`: the oldest of the frames it is given."""
    count, job = window.num_prefix_frames, plan.job
    noisy = count > 0 and job.addnoise_condition > 0
    return Prefix(
        latents=like[:, :, :0] if given is None else given[:, :, :count],
        noise=PrefixNoise(seed=job.seed, segment=window.num_draws_before) if noisy else None,
        factor=_ADDNOISE_UNIT * job.addnoise_condition,
        timestep=int(job.addnoise_condition) if noisy else 0,
        per_step=job.prefix_noise == "per_step",
    )
