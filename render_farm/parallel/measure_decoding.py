"""Measuring the VAE's decoder, alone and by rows on a group, with random weights: of the published size on a GPU, of a
third of its width on a CPU."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from render_farm.engine.decoding.tiles import FrameDecoder, Piece
from render_farm.parallel.decoding import RowDecoder
from render_farm.parallel.group import ParallelGroup
from render_farm.planning.decoding import decoding_work
from render_farm.planning.model_sizes import VaeSizes

_CPU_SIZE = 128
"""Pixels on a side, where a frame of full size would take minutes."""
_CPU_VAE = VaeSizes(base_dim=32, decoder_base_dim=32)
_NUM_FRAMES = 3
"""Latent frames; the first two are not counted: they have fewer frames before them."""


@dataclass(frozen=True, kw_only=True)
class DecodingTime:
    """A latent frame."""

    seconds: float
    operations: float
    frames: Tensor | None = None
    """What was decoded, to compare with."""
    speedup: float = 1.0
    largest_difference: float = 0.0
    """Of pixel values of -1..1."""

    @property
    def operations_per_s(self) -> float:
        return self.operations / self.seconds

    def against(self, alone: DecodingTime | None) -> DecodingTime:
        """This compared with one rank, without the frames."""
        if alone is None or self.frames is None or alone.frames is None:
            return self
        return replace(
            self,
            frames=None,
            speedup=alone.seconds / self.seconds,
            largest_difference=float((self.frames - alone.frames).abs().max()),
        )

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "frames"}

    def __str__(self) -> str:
        return (
            f"decoding: {self.seconds:.4f} s a latent frame, speedup {self.speedup:.2f}x, "
            f"difference {self.largest_difference:.1e}"
        )


@cache
def _vae(device: torch.device) -> AutoencoderKLWan:
    torch.manual_seed(0)
    with device:
        vae: AutoencoderKLWan = AutoencoderKLWan(base_dim=_sizes(device).base_dim)
    return vae.eval().requires_grad_(False)


def _sizes(device: torch.device) -> VaeSizes:
    return _CPU_VAE if device.type == "cpu" else VaeSizes()


def measure_decoding(group: ParallelGroup | None, device: torch.device, *, height: int, width: int) -> DecodingTime:
    """Every rank of the group makes this call. On a CPU the picture is small, whatever the request."""
    if device.type == "cpu":
        height = width = _CPU_SIZE
    vae = _vae(device)
    latents = torch.randn((1, 16, _NUM_FRAMES, height // 8, width // 8), generator=torch.Generator().manual_seed(0))
    rows = RowDecoder(vae, rank=group.rank, num_ranks=group.num_ranks) if group else None
    decoder: FrameDecoder = rows or Piece(vae)
    with torch.no_grad(), rows.joined(group) if rows and group else nullcontext():
        for latent in latents.to(device).split(1, dim=2):
            started = _now(device)
            frames = decoder.decode(latent)
            seconds = _now(device) - started
    work = decoding_work(_sizes(device), height=height, width=width)
    return DecodingTime(seconds=seconds, operations=work.operations, frames=frames.cpu())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
