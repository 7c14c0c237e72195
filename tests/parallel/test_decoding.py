"""A group decodes what one rank decodes, in a stream, from one group to the next."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from render_farm.engine.decoding.streaming import StreamingDecoder
from render_farm.engine.decoding.tiles import Piece
from render_farm.parallel import GroupShape, ParallelGroup
from render_farm.parallel.decoding import RowDecoder
from tests.helpers.ranks import RankFailed, RankPool, rank_pool

TOLERANCE = 1e-4
PIECES = [1, 3, 2]
"""Latent frames of the parts that a film arrives in."""


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with rank_pool(4) as ranks:
        yield ranks


@cache
def vae() -> Any:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 2, 2], num_res_blocks=1).eval()


@cache
def tiled_vae() -> Any:
    """With tiles that are smaller than the film's pictures."""
    found = vae()
    found.tile_sample_min_height = found.tile_sample_min_width = 32
    found.tile_sample_stride_height = found.tile_sample_stride_width = 24
    return found


def film(height: int = 7, width: int = 6) -> torch.Tensor:
    shape = (1, 16, sum(PIECES), height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


_decoders: dict[int, RowDecoder] = {}
"""Of this process, kept from one group to the next."""


def decode_part(group: ParallelGroup, latents: torch.Tensor, is_first: bool) -> np.ndarray:
    """On a rank: the frames (1 3 F H W) of a part."""
    torch.set_num_threads(1)
    if is_first:
        _decoders[0] = RowDecoder(vae(), rank=group.rank, num_ranks=group.num_ranks)
    decoder = _decoders[0]
    with decoder.joined(group):
        return torch.cat([decoder.decode(latent) for latent in latents.split(1, dim=2)], dim=2).numpy()


@pytest.mark.parametrize("shape", [GroupShape(ulysses=2), GroupShape(cfg=2, ring=2)], ids=str)
def test_a_group_decodes_what_one_rank_decodes(shape: GroupShape, pool: RankPool) -> None:
    """7 rows on 2 and 4 ranks, a new group for each part."""
    latents, alone = film(), Piece(vae())
    with torch.no_grad():
        expected = torch.cat([alone.decode(latent) for latent in latents.split(1, dim=2)], dim=2).numpy()
    parts = [
        pool.in_group(shape, decode_part, part, number == 0) for number, part in enumerate(latents.split(PIECES, dim=2))
    ]
    whole = [np.concatenate([ranks[rank] for ranks in parts], axis=2) for rank in range(shape.size)]
    assert whole[0].shape == (1, 3, 1 + 4 * (sum(PIECES) - 1), 56, 48)
    print(f"largest difference on {shape}: {np.abs(whole[0] - expected).max():.1e}")
    assert np.abs(whole[0] - expected).max() <= TOLERANCE
    assert all(np.array_equal(whole[0], other) for other in whole[1:])
    again = pool.in_group(shape, decode_part, latents[:, :, :2], True)[0]
    assert np.array_equal(again, whole[0][:, :, :5]), "the same bits for the same number of ranks"


def frames_of(group: ParallelGroup, latents: torch.Tensor) -> np.ndarray:
    rows = RowDecoder(vae(), rank=group.rank, num_ranks=group.num_ranks)
    with rows.joined(group):
        return np.stack(list(StreamingDecoder(vae(), num_skipped_frames=2, frame_decoder=rows).push(latents)))


def frames_of_take(group: ParallelGroup, latents: torch.Tensor, starts: tuple[int, ...] = ()) -> np.ndarray:
    rows = RowDecoder(vae(), rank=group.rank, num_ranks=group.num_ranks)
    with rows.joined(group):
        return np.stack(list(StreamingDecoder(vae(), starts=starts, frame_decoder=rows).push(latents)))


def test_frames_differ_by_one_level_at_most(pool: RankPool) -> None:
    expected = np.stack(list(StreamingDecoder(vae(), num_skipped_frames=2).push(film())))
    frames = pool.in_group(GroupShape(ulysses=2), frames_of, film())[0]
    assert frames.dtype == np.uint8 and frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected.astype(int)).max() <= 1


def frames_with_cut(group: ParallelGroup, latents: torch.Tensor) -> np.ndarray:
    return frames_of_take(group, latents, starts=(2,))


def test_decoding_starts_again_at_a_cut(pool: RankPool) -> None:
    """The same bits as two films, by one rank, in tiles and by a group."""
    takes = film()[:, :, :2], film()[:, :, 2:]
    for options in ({}, {"tiling": True}):
        expected = [frame for take in takes for frame in StreamingDecoder(tiled_vae(), **options).push(take)]
        found = list(StreamingDecoder(tiled_vae(), starts=[2], **options).push(film()))
        assert len(found) == 5 + 13 and np.array_equal(np.stack(found), np.stack(expected))
    pair = GroupShape(ulysses=2)
    apart = [pool.in_group(pair, frames_of_take, take)[0] for take in takes]
    assert np.array_equal(pool.in_group(pair, frames_with_cut, film())[0], np.concatenate(apart))


def held_after(group: ParallelGroup) -> int:

    rows = RowDecoder(vae(), rank=group.rank, num_ranks=group.num_ranks)
    with rows.joined(group):
        rows.decode(film()[:, :, :1])
    _decoders[0] = rows
    parameters = {id(tensor) for tensor in vae().decoder.parameters()}
    assert {id(tensor) for tensor in rows._decoder.parameters()} == parameters, "weights are shared, not copied"
    holders = [module for module in rows._decoder.modules() if getattr(module, "parallel_context", None)]
    return sum(module.parallel_context.group is not None for module in holders)


def test_a_decoder_keeps_nothing_of_its_group(pool: RankPool) -> None:
    assert pool.in_group(GroupShape(ulysses=2), held_after) == [0, 0]


def test_fewer_rows_than_ranks_are_refused_on_every_rank(pool: RankPool) -> None:
    with pytest.raises(RankFailed, match="4 ranks cannot share the 3 rows of a latent frame"):
        pool.in_group(GroupShape(ulysses=4), decode_part, film(height=3), True)
