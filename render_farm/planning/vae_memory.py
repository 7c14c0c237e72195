"""Bytes that `AutoencoderKLWan` takes to decode, and to encode, frame by frame with its feature cache.

Every causal convolution keeps the last two frames of its input (`CACHE_T`): that is the cache. The working memory is
the most that one residual block has alive, at the resolution where that is most. A kernel's own workspace is not
counted. All in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from render_farm.planning.model_sizes import VaeSizes

_FLOAT32 = 4
_KEPT_FRAMES = 2


@dataclass(frozen=True, kw_only=True)
class VaeMemory:
    """What one stream through the VAE holds."""

    cache_bytes: int
    """Between two calls, as long as the stream is open."""
    working_bytes: int
    """During a call, in addition to the cache."""

    @property
    def total_bytes(self) -> int:
        return self.cache_bytes + self.working_bytes


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A residual block: what it takes in and gives out, in channels, frames of one call and pixels of a frame."""

    inputs: int
    outputs: int
    num_frames: int
    num_pixels: int
    num_held: int
    """Tensors of its input's size that are alive all through: its shortcut, and in the decoder its level's input."""
    has_history: bool = True
    """Whether frames were cached before this call."""

    @property
    def cache_bytes(self) -> int:
        return self._num_kept * (self.inputs + self.outputs) * self.num_pixels * _FLOAT32

    @property
    def working_bytes(self) -> int:
        """A convolution's input, its new cache entry, the padded input with the cached frames before it, its output."""
        copies = (3 if self.has_history else 2) * self.num_frames + self._num_kept + _KEPT_FRAMES
        held = self.num_held * max(self.inputs, self.outputs) * self.num_frames
        return (held + max(self.inputs, self.outputs) * copies) * self.num_pixels * _FLOAT32

    @property
    def _num_kept(self) -> int:
        return _KEPT_FRAMES if self.has_history else min(_KEPT_FRAMES, self.num_frames)


def decoding_memory(vae: VaeSizes, *, height: int, width: int) -> VaeMemory:
    """To decode a film of `height` x `width` pixels latent frame by latent frame; independent of its length."""
    cache, working = 0, 0
    for block in _decoder_blocks(vae, height, width):
        cache += block.cache_bytes
        working = max(working, block.working_bytes)
    return VaeMemory(cache_bytes=cache + _ends_of_decoder(vae, height, width), working_bytes=working)


def encoding_memory(vae: VaeSizes, *, height: int, width: int, num_frames: int, batch: int = 1) -> VaeMemory:
    """To encode `batch` inputs of `num_frames` frames in one call (which goes 1, 4, 4, ... frames at a time)."""
    cache, working = 0, 0
    for block in _encoder_blocks(vae, height, width, is_image=num_frames == 1):
        cache += block.cache_bytes
        working = max(working, block.working_bytes)
    pixels = 3 * num_frames * height * width * _FLOAT32
    return VaeMemory(cache_bytes=batch * cache, working_bytes=batch * (working + pixels))


def _decoder_blocks(vae: VaeSizes, height: int, width: int) -> Iterator[_Block]:
    scale = 2 ** len(vae.temporal_downsample)
    pixels = (height // scale) * (width // scale)
    dims = [vae.decoder_base_dim * factor for factor in (vae.dim_mult[-1], *reversed(vae.dim_mult))]
    frames = 1
    for _ in range(2):
        yield _Block(inputs=dims[0], outputs=dims[0], num_frames=1, num_pixels=pixels, num_held=2)
    for level, (above, dim) in enumerate(itertools.pairwise(dims)):
        first = above // 2 if level else above
        for block in range(vae.num_res_blocks + 1):
            inputs = first if block == 0 else dim
            yield _Block(inputs=inputs, outputs=dim, num_frames=frames, num_pixels=pixels, num_held=2)
        if level < len(vae.temporal_downsample):
            frames *= 2 if vae.temporal_downsample[-1 - level] else 1
            pixels *= 4


def _ends_of_decoder(vae: VaeSizes, height: int, width: int) -> int:
    """The cache of the first and last convolution, and of those that double the frame rate."""
    scale = 2 ** len(vae.temporal_downsample)
    pixels = (height // scale) * (width // scale)
    dims = [vae.decoder_base_dim * factor for factor in reversed(vae.dim_mult)]
    values: int = vae.z_dim * pixels + dims[-1] * height * width
    for level, doubles in enumerate(reversed(vae.temporal_downsample)):
        values += dims[level] * pixels * 4**level if doubles else 0
    return _KEPT_FRAMES * values * _FLOAT32


def _encoder_blocks(vae: VaeSizes, height: int, width: int, *, is_image: bool) -> Iterator[_Block]:
    dims = [vae.base_dim * factor for factor in (1, *vae.dim_mult)]
    pixels, frames = height * width, 1 if is_image else 2 ** sum(vae.temporal_downsample)

    def block(inputs: int, outputs: int) -> _Block:
        return _Block(
            inputs=inputs,
            outputs=outputs,
            num_frames=frames,
            num_pixels=pixels,
            num_held=1,
            has_history=not is_image,
        )

    for level, (below, dim) in enumerate(itertools.pairwise(dims)):
        for index in range(vae.num_res_blocks):
            yield block(dim if index else below, dim)
        if level < len(vae.temporal_downsample):
            frames = max(1, frames // 2) if vae.temporal_downsample[level] else frames
            pixels //= 4
    yield block(dims[-1], dims[-1])
    yield block(dims[-1], dims[-1])
