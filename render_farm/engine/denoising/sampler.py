"""The samplers, for all frames of a window at once, each at its own step: UniPC, and that of distilled weights.

diffusers runs one `UniPCMultistepScheduler` per frame. Everything but the samples depends on the step alone, so the
coefficients of every step are computed once, with that scheduler's own formulas (solver order 2, `bh2`, `predict_x0`,
flow prediction; https://huggingface.co/papers/2302.04867), and gathered for the frames that move.

Shapes: B batch, C channels, F latent frames, h w latent height and width; N inference steps, R rows of the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from render_farm.engine.denoising.noise import StepNoise

SOLVER_ORDER = 2
_SIGMA, _C_LAST, _C_X0, _C_GAIN, _C_INVERSE, _C_OLD, _C_NEW, _P_LAST, _P_X0, _P_GAIN, _P_INVERSE, _P_OLD = range(12)


@dataclass(frozen=True, kw_only=True)
class _Update:
    """`last * x - x0 * m0 - gain * (old * (m1 - m0) / ratio + new * (m - m0))`, float32 scalars."""

    last: Tensor
    x0: Tensor
    gain: Tensor
    ratio: Tensor
    h: Tensor


def _lambda(sigma: Tensor) -> Tensor:
    return torch.log(1 - sigma) - torch.log(sigma)


def _update(sigmas: Tensor, source: int, target: int) -> _Update:
    """The terms shared by predictor and corrector from step `source` to `target`, with the step before `source`."""
    sigma_t, sigma_s0 = sigmas[target], sigmas[source]
    alpha_t = 1 - sigma_t
    h = _lambda(sigma_t) - _lambda(sigma_s0)
    growth = torch.expm1(-h)
    ratio = (_lambda(sigmas[source - 1]) - _lambda(sigma_s0)) / h if source else torch.ones(())
    return _Update(last=sigma_t / sigma_s0, x0=alpha_t * growth, gain=alpha_t * growth, ratio=ratio, h=h)


def _corrector_weights(update: _Update) -> Tensor:
    """rho of UniC of order 2: solve R rho = b (`multistep_uni_c_bh_update`)."""
    hh = -update.h
    growth = torch.expm1(hh)
    phi = growth / hh - 1
    rks = torch.stack([update.ratio, torch.ones(())])
    rows, right, factorial = [], [], 1
    for i in range(1, SOLVER_ORDER + 1):
        rows.append(torch.pow(rks, i - 1))
        right.append(phi * factorial / growth)
        factorial *= i + 1
        phi = phi / hh - 1 / factorial
    weights: Tensor = torch.linalg.solve(torch.stack(rows), torch.stack(right))
    return weights


def step_order(step: int, num_steps: int) -> int:
    """The solver's order at `step`: lower while it warms up and at the end (`lower_order_final`)."""
    return min(SOLVER_ORDER, num_steps - step, step + 1)


def unipc_table(sigmas: Sequence[float]) -> Tensor:
    """Coefficients (12, N) float32 of every step for noise levels `sigmas` (N + 1, the last 0)."""
    levels = torch.tensor(sigmas, dtype=torch.float64).to(torch.float32)
    num_steps = len(sigmas) - 1
    one, zero, half = torch.ones(()), torch.zeros(()), torch.tensor(0.5)
    columns = []
    for step in range(num_steps):
        corrector = [zero, zero, zero, one, zero, zero]
        if step:
            update = _update(levels, step - 1, step)
            second = step_order(step - 1, num_steps) == SOLVER_ORDER
            old, new = _corrector_weights(update) if second else (zero, half)
            corrector = [update.last, update.x0, update.gain, update.ratio if second else one, old, new]
        update = _update(levels, step, step + 1)
        second = step_order(step, num_steps) == SOLVER_ORDER
        predictor = [update.last, update.x0, update.gain, update.ratio if second else one, half if second else zero]
        columns.append(torch.stack([levels[step], *corrector, *predictor]))
    return torch.stack(columns, dim=1)


class Sampler(Protocol):
    """Moves a window's latents, which it was made with, in place."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers of the frames besides, (B C F h w) each."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state` gave."""
        ...

    def step(self, prediction: Tensor, *, row: int, start: int, stop: int) -> None:
        """Move frames [start, stop) by `prediction` (B C F h w), the guided flow in the model's dtype."""
        ...


class DistilledSampler:
    """Goes all the way to the clean sample in every step, and back with fresh noise: `FlowMatchLCMScheduler`.

    It remembers nothing, and the noise depends on the row alone.
    """

    def __init__(self, latents: Tensor, *, sigmas: Sequence[float], steps: Tensor, noise: StepNoise) -> None:
        """Arguments as of `FrameSampler`; `sigmas` are single precision."""
        self._latents = latents
        self._noise = noise
        levels = torch.tensor(sigmas, dtype=torch.float32)
        table = torch.stack((levels[:-1], levels[1:])).to(latents.device)[:, steps.to(latents.device)]
        self._table = table[:, :, None, None, :, None, None]

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        assert not state

    def step(self, prediction: Tensor, *, row: int, start: int, stop: int) -> None:
        now, following = self._table[:, row, :, :, start:stop]
        noise = self._noise.draw(row, tuple(self._latents.shape))[:, :, start:stop].to(self._latents.device)
        clean = self._latents[:, :, start:stop] - _scaled(prediction, now)
        moved = (1 - following) * clean + following * noise
        self._latents[:, :, start:stop] = moved.to(prediction.dtype)  # rounded, as the scheduler does


class FrameSampler:
    """Moves latents from step to step; holds the two last predictions and the last sample of every frame.

    `corrected` false replicates diffusers' loop: it hands its scheduler a view of the latents, the scheduler keeps that
    as `last_sample`, and the loop then overwrites it, so a frame's second step corrects from where it already is. True
    corrects from where it was, as the method says.
    """

    def __init__(self, latents: Tensor, *, sigmas: Sequence[float], steps: Tensor, corrected: bool) -> None:
        """`latents` (B C F h w) float32 are moved in place. `steps` (R, F) int64, on any device, is the step of each
        frame in each row (any valid one where the frame does not move)."""
        self._latents = latents
        self._corrected = corrected
        self._newest = torch.zeros_like(latents)
        self._older = torch.zeros_like(latents)
        self._last = torch.zeros_like(latents)
        # One transfer before the loop: (12, R, 1, 1, F, 1, 1).
        table = unipc_table(sigmas).to(latents.device)[:, steps.to(latents.device)]
        self._table = table[:, :, None, None, :, None, None]
        self._steps = steps.to(latents.device)[:, None, None, :, None, None]

    def state(self) -> dict[str, Tensor]:
        """What it remembers of the frames, (B C F h w) each."""
        return {"newest": self._newest, "older": self._older, "last": self._last}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def step(self, prediction: Tensor, *, row: int, start: int, stop: int) -> None:
        """Move frames [start, stop) by `prediction` (B C F h w), the guided flow in the model's dtype."""
        c = self._table[:, row, :, :, start:stop]
        step = self._steps[row, :, :, start:stop]
        sample, newest, older, last = (
            tensor[:, :, start:stop] for tensor in (self._latents, self._newest, self._older, self._last)
        )
        x0 = sample - _scaled(prediction, c[_SIGMA])
        if not self._corrected:
            last = torch.where(step == 1, sample, last)
        change = c[_C_OLD] * ((older - newest) / c[_C_INVERSE]) + c[_C_NEW] * (x0 - newest)
        moved = c[_C_LAST] * last - c[_C_X0] * newest - c[_C_GAIN] * change
        sample = torch.where(step > 0, moved, sample)

        difference = (newest - x0) / c[_P_INVERSE]
        self._older[:, :, start:stop] = newest
        self._newest[:, :, start:stop] = x0
        self._last[:, :, start:stop] = sample
        self._latents[:, :, start:stop] = c[_P_LAST] * sample - c[_P_X0] * x0 - c[_P_GAIN] * (c[_P_OLD] * difference)


def _scaled(prediction: Tensor, sigma: Tensor) -> Tensor:
    """`sigma * prediction`, rounded as diffusers' product of a 0-dimensional float32 tensor and a bfloat16 one: the CPU
    rounds the factor first, CUDA only the product."""
    if prediction.device.type == "cpu":
        return sigma.to(prediction.dtype) * prediction
    return (sigma * prediction).to(prediction.dtype)
