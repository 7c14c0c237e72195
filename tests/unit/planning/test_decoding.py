"""What decoding costs, and when a group does it together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from render_farm import RenderJob
from render_farm.engine.decoding.tiles import Piece
from render_farm.planning import FilmPlan, plan_film, spec_of_preset
from render_farm.planning.decoding import decodes_together, decoding_seconds, decoding_work
from render_farm.planning.group_cost import CPU_NODE, NVLINK_NODE
from render_farm.planning.groups import GroupShape
from render_farm.planning.model_sizes import VaeSizes

EIGHT = GroupShape(cfg=2, ulysses=4)


def film(**columns: Any) -> FilmPlan:
    return plan_film(RenderJob(job_id="a", prompt="p", **columns), spec_of_preset("df-14b-540p"))


@pytest.mark.parametrize("num_res_blocks", [0, 2])
def test_operations_are_those_of_the_decoder(num_res_blocks: int) -> None:
    vae = AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 4, 4], num_res_blocks=num_res_blocks).eval()
    decoder, latents = Piece(vae), torch.randn(1, 16, 3, 4, 6)
    with torch.no_grad():
        decoder.decode(latents[:, :, :1])
        decoder.decode(latents[:, :, 1:2])
        with FlopCounterMode(display=False) as counter:
            decoder.decode(latents[:, :, 2:])
    work = decoding_work(VaeSizes.from_config(dict(vae.config)), height=32, width=48)
    # The 1x1 convolutions (shortcuts, and the one before the decoder) are left out of the estimate.
    assert work.operations == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert work.operations < counter.get_total_flops()


def test_more_ranks_take_less_time_where_exchanges_cost_little() -> None:
    work = decoding_work(VaeSizes(), height=544, width=960)
    times = [decoding_seconds(work, count, NVLINK_NODE) for count in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[3] > 7


def test_a_group_decodes_together_when_it_pays() -> None:
    assert decodes_together(film(), VaeSizes(), EIGHT, NVLINK_NODE)
    small = film(height=32, width=32)
    tiny = VaeSizes(base_dim=8, decoder_base_dim=8)
    assert not decodes_together(small, tiny, GroupShape(ulysses=4), CPU_NODE)
    assert decodes_together(small, tiny, GroupShape(ulysses=4), CPU_NODE, asked="on")
    assert not decodes_together(film(), VaeSizes(), EIGHT, NVLINK_NODE, asked="off")


def test_some_films_are_decoded_by_one_rank_whatever_is_asked() -> None:
    assert not decodes_together(film(), VaeSizes(), GroupShape(), NVLINK_NODE, asked="on")
    assert not decodes_together(film(memory="vae_tiling"), VaeSizes(), EIGHT, NVLINK_NODE, asked="on")
    assert not decodes_together(film(height=32, width=64), VaeSizes(), EIGHT, NVLINK_NODE, asked="on"), "4 rows"
