"""RMS norm over channels, SiLU and the room for a convolution's borders in one Triton kernel: one read, one write.

diffusers does the norm and SiLU in seven passes over memory, and its convolution then copies what they give in order to
pad it. Importing this needs triton. `TRITON_INTERPRET=1` runs the kernel on a CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 16384
"""Values that a program holds: 64 registers of each of 256 threads."""


@triton.jit  # type: ignore[untyped-decorator]
def _norm_silu(  # type: ignore[no-untyped-def]  # Triton reads annotations
    x,
    gamma,
    out,
    scale,
    channels,
    frames,
    height,
    width,
    before,
    border,
    CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    size = frames * height * width
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1).to(tl.int64) * channels + tl.arange(0, CHANNELS)
    inside = (tl.arange(0, CHANNELS) < channels)[:, None] & (position < size)[None, :]
    values = tl.load(x + channel[:, None] * size + position[None, :], mask=inside, other=0.0).to(tl.float32)
    factor = scale / tl.maximum(tl.sqrt(tl.sum(values * values, axis=0)), 1e-12)
    weight = tl.load(gamma + tl.arange(0, CHANNELS), mask=tl.arange(0, CHANNELS) < channels, other=0.0).to(tl.float32)
    normed = values * factor[None, :] * weight[:, None]
    wide = width + 2 * border
    plane = (height + 2 * border) * wide
    row = position // width % height + border
    place = (position // width // height + before) * plane + row * wide + position % width + border
    target = out + channel[:, None] * (frames + before) * plane + place[None, :]
    tl.store(target, normed * tl.sigmoid(normed), mask=inside)


@torch.library.custom_op("render_farm::norm_silu", mutates_args=())
def norm_silu(x: Tensor, gamma: Tensor, before: int, border: int) -> Tensor:
    """`x` (B C F H W) normed, times `gamma` (C ...) and through SiLU, in (B C before + F border + H + border ...).

    The borders of all frames are zero. The first `before` frames are not written. The arithmetic is float32.
    """
    batch, channels, frames, height, width = x.shape
    padded: Tensor = _room(x, gamma, before, border)
    if border:
        for dim in (3, 4):
            padded.narrow(dim, 0, border).zero_()
            padded.narrow(dim, padded.shape[dim] - border, border).zero_()
    rounded = triton.next_power_of_2(channels)
    positions = max(1, _TILE // rounded)
    with torch.cuda.device_of(x):
        _norm_silu[(triton.cdiv(frames * height * width, positions), batch)](
            x.contiguous(),
            gamma,
            padded,
            channels**0.5,
            channels,
            frames,
            height,
            width,
            before,
            border,
            CHANNELS=rounded,
            POSITIONS=positions,
            num_warps=8,
        )
    return padded


@norm_silu.register_fake
def _room(x: Tensor, gamma: Tensor, before: int, border: int) -> Tensor:
    batch, channels, frames, height, width = x.shape
    return x.new_empty((batch, channels, before + frames, height + 2 * border, width + 2 * border))
