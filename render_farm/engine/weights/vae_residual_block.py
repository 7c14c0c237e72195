"""The VAE's residual blocks on a GPU: norm, SiLU and the convolution's padding in one pass over memory."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanCausalConv3d,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn

from render_farm.engine.device import KERNEL_FAILURES
from render_farm.engine.weights.vae_convolution import OneCopyConvolution

_log = logging.getLogger(__name__)


class FusedResidualBlock(WanResidualBlock):
    """Between diffusers' numbers and its own there is float32 rounding only (norm and SiLU, in another order).

    At 544x960 that saves 91 of the 159 GB that a latent frame's decoding moves next to its convolutions.
    """

    def forward(
        self, x: Tensor, feat_cache: list[Tensor | None] | None = None, feat_idx: list[int] | None = None
    ) -> Tensor:
        """`x` (B C F H W). `feat_cache` has the last frames of every convolution's input, `feat_idx` the next place."""
        if feat_cache is None or feat_idx is None or not isinstance(self.conv1, OneCopyConvolution):
            # DistVAE's convolutions exchange their borders.
            whole: Tensor = super().forward(x, feat_cache, [0] if feat_idx is None else feat_idx)
            return whole
        shortcut = self.conv_shortcut(x)
        for norm, convolution in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            x = _convolve(norm, convolution, x, feat_cache, feat_idx[0])
            feat_idx[0] += 1
        summed: Tensor = x + shortcut
        return summed


def _convolve(
    norm: nn.Module, convolution: WanCausalConv3d, x: Tensor, feat_cache: list[Tensor | None], index: int
) -> Tensor:
    from render_farm.engine.weights.norm_kernel import norm_silu

    border, _, _, _, before, _ = (int(side) for side in convolution._padding)
    padded = norm_silu(x, norm.gamma, before, border)
    inside = padded[..., border : padded.shape[3] - border, border : padded.shape[4] - border]
    earlier = feat_cache[index]
    if earlier is None:
        padded[:, :, :before] = 0
    else:
        inside[:, :, before - earlier.shape[2] : before] = earlier
    feat_cache[index] = inside[:, :, -before:].clone()
    return nn.Conv3d.forward(convolution, padded)


def fuse_blocks(vae: AutoencoderKLWan) -> None:
    """Have all its residual blocks do so, in place. Its convolutions copy once (`vae_convolution`)."""
    for module in vae.modules():
        if type(module) is WanResidualBlock:
            module.__class__ = FusedResidualBlock


def kernel_works(device: torch.device) -> bool:
    """Whether the kernel runs on `device` and gives what diffusers' modules give there. A second, once a process."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    from triton.errors import TritonError

    try:
        largest = max(error_of_kernel(device, channels) for channels in (96, 384))
    except (*KERNEL_FAILURES, TritonError) as error:
        _log.warning("the VAE's norms go without a kernel of their own, which cannot run here: %s", error)
        return False
    if not largest <= _MOST_ERROR:
        _log.warning("the VAE's norms go without a kernel of their own, which is wrong by %.2g here", largest)
    return largest <= _MOST_ERROR


_MOST_ERROR = 2e-5
"""Values are below 16. Each goes through six roundings of float32 (6e-8), and through a root, a division and an
exponential, which a GPU may compute to 2 units in the last place (2.4e-7)."""


def error_of_kernel(device: torch.device, channels: int) -> float:
    """The most that it is wrong by, for normal numbers and a frame of several programs."""
    from render_farm.engine.weights.norm_kernel import norm_silu

    norm = WanRMS_norm(channels, images=False)
    numbers = torch.Generator().manual_seed(0)
    states = torch.randn((2, channels, 3, 9, 7), generator=numbers)
    norm.gamma.data.normal_(generator=numbers)
    with torch.no_grad():
        expected = nn.functional.pad(nn.functional.silu(norm(states)), (1, 1, 1, 1))
        found = norm_silu(states.to(device), norm.gamma.to(device), 2, 1).cpu()
    return float((found[:, :, 2:] - expected).abs().max())
