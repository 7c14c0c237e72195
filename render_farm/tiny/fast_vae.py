"""The video decoder over a whole clip at once: what diffusers computes frame group by frame group.

Streaming with a feature cache and one causal pass with zeros before the first frame give the same numbers, except that
the temporal resamplers treat the first frame apart. Training needs the second form; it also fuses what is slow on
a CPU (the norms, the spatial padding; measured 20 -> 12 ms a frame) and skips the temporal taps that see only zeros
when a clip is one image.
Shapes: clips B 3 T H W in [-1, 1] (T = 4n + 1), latents B C T' H/8 W/8 (T' = n + 1).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn


def decode_clips(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Return the clips of latents that are not normalised: B 3 T H W, not clamped."""
    decoder: Any = vae.decoder
    x = _middle(decoder.mid_block, _conv(decoder.conv_in, _conv(vae.post_quant_conv, latents)))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _residual(resnet, x)
        for upsampler in block.upsamplers or []:
            x = _resample(upsampler, x)
    return _conv(decoder.conv_out, _norm_silu(decoder.norm_out, x))


def _conv(layer: Any, x: Tensor) -> Tensor:
    """Causal convolution: zeros before the first frame."""
    taps, rows, columns = layer.kernel_size
    spatial = (rows // 2, columns // 2)
    if x.shape[2] == 1:
        return F.conv2d(x[:, :, 0], layer.weight[:, :, -1], layer.bias, padding=spatial).unsqueeze(2)
    padded = F.pad(x, (0, 0, 0, 0, taps - 1, 0)) if taps > 1 else x
    return F.conv3d(padded, layer.weight, layer.bias, padding=(0, *spatial))


def _norm_silu(norm: Any, x: Tensor) -> Tensor:
    inverse = (x * x).sum(1, keepdim=True).clamp_min(1e-24).rsqrt() * norm.scale
    return F.silu(x * inverse * norm.gamma)


def _residual(block: Any, x: Tensor) -> Tensor:
    shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else _conv(block.conv_shortcut, x)
    hidden = _conv(block.conv1, _norm_silu(block.norm1, x))
    return _conv(block.conv2, _norm_silu(block.norm2, hidden)) + shortcut


def _middle(block: Any, x: Tensor) -> Tensor:
    x = _residual(block.resnets[0], x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _residual(resnet, attention(x))
    return x


def _resample(layer: Any, x: Tensor) -> Tensor:
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        pairs = _conv_all_taps(layer.time_conv, x[:, :, 1:]).unflatten(1, (2, -1))  # B 2 C T H W
        x = torch.cat([x[:, :, :1], torch.stack([pairs[:, 0], pairs[:, 1]], dim=3).flatten(2, 3)], dim=2)
    batch, _, frames, _, _ = x.shape
    resampled: Tensor = layer.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, frames))
    return resampled.transpose(1, 2)


def _conv_all_taps(layer: Any, x: Tensor) -> Tensor:
    padded = F.pad(x, (0, 0, 0, 0, layer.kernel_size[0] - 1, 0))
    return F.conv3d(padded, layer.weight, layer.bias)
