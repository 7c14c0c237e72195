"""What decoding a latent frame costs, alone and shared by rows: whether a render group decodes its films together.

A worker decodes a segment alongside the denoising of the next. In a group that slows all ranks down, because they wait
for this one at every exchange. The group can decode together instead, between two segments: each rank some rows of the
picture, with an exchange for every convolution that looks at the rows beside (`parallel.decoding`).

Counted for `AutoencoderKLWan` (of Wan 2.1) in a stream: one latent frame in, four frames out, float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from render_farm.planning.film import FilmPlan
from render_farm.planning.group_cost import GroupMachine
from render_farm.planning.groups import GroupShape
from render_farm.planning.model_sizes import VaeSizes

_FLOAT32 = 4
_KEPT_FRAMES = 2


@dataclass(frozen=True, kw_only=True)
class _Convolution:
    """One of the decoder's, on a latent frame."""

    inputs: int
    outputs: int
    taps: int
    num_frames: int
    height: int
    width: int
    is_cached: bool = True
    """Whether it also sees the frames kept from before."""
    sees_rows: bool = True
    """Whether it looks at the rows above and below."""

    @property
    def operations(self) -> int:
        return 2 * self.inputs * self.outputs * self.taps * self.num_frames * self.height * self.width

    @property
    def row_bytes(self) -> int:
        frames = self.num_frames + (_KEPT_FRAMES if self.is_cached else 0)
        return self.inputs * frames * self.width * _FLOAT32 if self.sees_rows else 0


@dataclass(frozen=True, kw_only=True)
class DecodingWork:
    """One latent frame."""

    operations: float
    """A multiply-add counted as two."""
    num_exchanges: int
    """With the neighbours; a further one brings the whole picture together, and two are for attention."""
    row_bytes: float
    """Of one row in all of those exchanges: what a rank sends to each neighbour."""
    attended_bytes: float
    """The picture as attention sees it."""
    frame_bytes: float
    """The four frames."""


def decoding_work(vae: VaeSizes, *, height: int, width: int) -> DecodingWork:
    """A latent frame of a film of `height` x `width` pixels."""
    found = list(_convolutions(vae, height, width))
    tokens, dim = _latent_pixels(vae, height, width), vae.decoder_base_dim * vae.dim_mult[-1]
    attention = 2 * tokens * dim * (4 * dim + 2 * tokens)
    return DecodingWork(
        operations=sum(one.operations for one in found) + attention,
        num_exchanges=sum(one.sees_rows for one in found),
        row_bytes=sum(one.row_bytes for one in found),
        attended_bytes=tokens * dim * _FLOAT32,
        frame_bytes=3 * 4 * height * width * _FLOAT32,
    )


def decoding_seconds(work: DecodingWork, num_ranks: int, machine: GroupMachine) -> float:
    """An estimate for one latent frame. Attention is computed in full on every rank, as DistVAE does."""
    operations = work.operations / num_ranks / machine.decoding_operations_per_s
    if num_ranks == 1:
        return operations
    sent = 2 * work.row_bytes + (num_ranks - 1) / num_ranks * (work.attended_bytes + work.frame_bytes)
    return operations + sent / machine.bytes_per_s + (work.num_exchanges + 4) * machine.exchange_s


def decodes_together(
    plan: FilmPlan, vae: VaeSizes, shape: GroupShape, machine: GroupMachine, *, asked: str = "auto"
) -> bool:
    """Whether a group of `shape` decodes its film together; `asked` is the setting `decode` of `[group]`.

    By tiles one rank decodes, and never do more ranks than a latent frame has rows.
    """
    able = 1 < shape.size <= plan.latent_height and "vae_tiling" not in plan.job.memory
    if asked != "auto" or not able:
        return able and asked == "on"
    work = decoding_work(vae, height=plan.job.height, width=plan.job.width)
    return decoding_seconds(work, shape.size, machine) < decoding_seconds(work, 1, machine)


def _latent_pixels(vae: VaeSizes, height: int, width: int) -> int:
    scale: int = 2 ** len(vae.temporal_downsample)
    return ceil(height / scale) * ceil(width / scale)


def _convolutions(vae: VaeSizes, height: int, width: int) -> Iterator[_Convolution]:
    """Of the decoder, in the order in which they run."""
    scale = 2 ** len(vae.temporal_downsample)
    size = {"num_frames": 1, "height": height // scale, "width": width // scale}
    dims = [vae.decoder_base_dim * factor for factor in (vae.dim_mult[-1], *reversed(vae.dim_mult))]
    yield _Convolution(inputs=vae.z_dim, outputs=dims[0], taps=27, **size)
    for _ in range(4):  # two residual blocks around attention
        yield _Convolution(inputs=dims[0], outputs=dims[0], taps=27, **size)
    for level, (above, dim) in enumerate(itertools.pairwise(dims)):
        inputs = above // 2 if level else above
        for _ in range(vae.num_res_blocks + 1):
            yield _Convolution(inputs=inputs, outputs=dim, taps=27, **size)
            yield _Convolution(inputs=dim, outputs=dim, taps=27, **size)
            inputs = dim
        if level < len(vae.temporal_downsample):
            if vae.temporal_downsample[-1 - level]:
                yield _Convolution(inputs=dim, outputs=2 * dim, taps=3, sees_rows=False, **size)
                size["num_frames"] *= 2
            size["height"] *= 2
            size["width"] *= 2
            yield _Convolution(inputs=dim, outputs=dim // 2, taps=9, is_cached=False, **size)
    yield _Convolution(inputs=dims[-1], outputs=3, taps=27, **size)
