"""Random numbers of a film: they do not depend on the worker or the time at which a segment is rendered.

Shapes: B batch (1), C channels, F latent frames, h w latent height and width.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from render_farm.planning import FilmPlan


def window_noise(plan: FilmPlan, segment: int) -> Tensor:
    """The starting noise (B C F h w) float32 of a segment's whole window, prefix included, on the CPU.

    One generator, seeded with the job's seed, draws the windows of a stream in order, as `prepare_latents` does for the
    one stream of a film; those before are drawn again and dropped (a window takes milliseconds), which is what lets a
    segment be rendered by itself.
    """
    generator = torch.Generator(device="cpu").manual_seed(plan.job.seed)
    for window in plan.windows[plan.windows[segment].stream_start : segment + 1]:
        shape = (1, plan.spec.latent_channels, window.num_latent_frames, plan.latent_height, plan.latent_width)
        noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    return noise


class StepNoise:
    """The fresh noise of a distilled film's steps: of the job's seed, the segment and the step alone, so that a segment
    can be resumed at any step. diffusers draws it from the global generator."""

    def __init__(self, *, seed: int, segment: int) -> None:
        self._name = f"step noise {seed} {segment}"

    def draw(self, row: int, shape: tuple[int, ...]) -> Tensor:
        """The noise of a whole window in `row`, float32 on the CPU."""
        return torch.randn(shape, generator=_generator(f"{self._name} {row}"), dtype=torch.float32, device="cpu")


def _generator(name: str) -> torch.Generator:
    """A stream of its own for `name`, on the CPU."""
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class PrefixNoise:
    """The noise that `addnoise_condition` puts on a segment's prefix: a stream of the job's seed and the segment.

    diffusers draws it from the device's global generator, where it depends on everything drawn before.
    """

    def __init__(self, *, seed: int, segment: int) -> None:
        self._generator = _generator(f"prefix noise {seed} {segment}")

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """The next noise, float32 on the CPU."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float32, device="cpu")

    def state(self) -> Tensor:
        """Where the stream is, (bytes) uint8."""
        return self._generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Continue from where the stream was."""
        self._generator.set_state(state)
