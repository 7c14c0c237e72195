"""A window in the middle of its steps: all that is needed to continue with the next one, bit for bit.

Shapes: B batch (1), C channels, F latent frames, h w latent height and width; S tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from render_farm.engine.denoising.guidance import Guidance
from render_farm.engine.denoising.noise import PrefixNoise
from render_farm.engine.denoising.sampler import Sampler
from render_farm.engine.transformer.kv_cache import KeyValueCache

_CACHE = "cache."
_SAMPLER = "sampler."
_GUIDANCE = "guidance."
_NOISE = "prefix_noise"
_LATENTS = "latents"


@dataclass(frozen=True, kw_only=True)
class StepState:
    """After `num_rows` rows of the window's schedule. `tensors` are on the CPU: the latents (B C F h w), what the
    sampler and guidance remember of them, the kept keys and values (B S H D), the state of the prefix noise's generator
    (bytes)."""

    num_rows: int
    tensors: Mapping[str, Tensor]


class StepKeeper(Protocol):
    """Keeps the state of a segment's steps somewhere, now and then."""

    def resume(self) -> StepState | None:
        """The state to continue from; None to start from the first row."""

    def offer(self, num_rows: int, num_bytes: int, make: Callable[[], StepState]) -> None:
        """A row is done. `make` copies the state, of about `num_bytes`, to the CPU; it need not be called."""


@dataclass(frozen=True, kw_only=True)
class WindowState:
    """The state that a window's loop changes from row to row."""

    latents: Tensor
    sampler: Sampler
    guidance: Guidance
    noise: PrefixNoise | None
    cache: KeyValueCache | None

    def resume(self, keeper: StepKeeper | None) -> int:
        """Restore what `keeper` holds; returns the first row to compute."""
        state = keeper.resume() if keeper is not None else None
        if state is None:
            return 0
        self.latents.copy_(state.tensors[_LATENTS])
        self.sampler.restore(_part(state.tensors, _SAMPLER))
        self.guidance.restore(_part(state.tensors, _GUIDANCE))
        if self.noise is not None:
            self.noise.restore(state.tensors[_NOISE])
        if self.cache is not None:
            self.cache.restore(_part(state.tensors, _CACHE), like=self.latents)
        return state.num_rows

    def offer(self, keeper: StepKeeper | None, num_rows: int) -> None:
        """Offer the state after `num_rows` rows."""
        if keeper is not None:
            kept = sum(tensor.nbytes for tensor in self.guidance.state().values())
            kept += self.cache.num_bytes if self.cache is not None else 0
            keeper.offer(num_rows, 4 * self.latents.nbytes + kept, lambda: self._copy(num_rows))

    def _copy(self, num_rows: int) -> StepState:
        tensors = {_LATENTS: self.latents, **_named(_SAMPLER, self.sampler.state())}
        tensors |= _named(_GUIDANCE, self.guidance.state())
        if self.noise is not None:
            tensors[_NOISE] = self.noise.state()
        if self.cache is not None:
            tensors |= _named(_CACHE, self.cache.state())
        copied = {name: torch.empty_like(t, device="cpu").copy_(t) for name, t in tensors.items()}
        return StepState(num_rows=num_rows, tensors=copied)


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
