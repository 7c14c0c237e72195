"""AdaIN for films of many windows: the statistics of a window's latents move toward those of the first window."""

from __future__ import annotations

import torch
from torch import Tensor

_TIME_AND_PLACE = (2, 3, 4)
_SMALLEST = 1e-6


def moved_toward(latents: Tensor, first: Tensor, share: float) -> Tensor:
    """`latents` (1 C T h w) with the mean and standard deviation of each channel moved by `share` toward those of
    `first` (1 C T h w), as diffusers' `adain_normalize_latents` does it.

    In float64 and on the CPU, so that neither the number of threads nor the device decides the last bits.
    """
    now, then = latents.cpu().double(), first.cpu().double()
    mean, deviation = now.mean(_TIME_AND_PLACE, keepdim=True), now.std(_TIME_AND_PLACE, keepdim=True)
    wanted_mean = torch.lerp(mean, then.mean(_TIME_AND_PLACE, keepdim=True), share)
    wanted = torch.lerp(deviation, then.std(_TIME_AND_PLACE, keepdim=True), share).clamp(min=_SMALLEST)
    return ((now - mean) / (deviation + _SMALLEST) * wanted + wanted_mean).to(latents.dtype)
