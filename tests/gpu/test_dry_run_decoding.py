"""Decoding at full size on a fake GPU: of the films in turn, only the features of one are on the device."""

from __future__ import annotations

import pytest
import torch

from render_farm.engine.decoding.tiles import frame_decoder
from render_farm.engine.decoding.turns import DecodingTurns
from render_farm.engine.weights.vae_residual_block import fuse_blocks
from render_farm.memory_mode import parse_memory
from render_farm.planning.memory import FILMS_AT_ONCE, estimate_memory
from render_farm.planning.memory_modes import device_bytes
from tests.helpers.dry_run import FAKE, DryRun, fake_transfers, fake_vae, film
from tests.helpers.live_memory import LiveMemory

NUM_LATENT_FRAMES = 3
"""After which every convolution has kept the frames that it keeps."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tiling"),
    [("df-1.3b-540p", False), pytest.param("df-1.3b-540p", True, marks=pytest.mark.long), ("df-14b-720p", False)],
)
def test_films_in_turn(name: str, tiling: bool) -> None:
    plan, sizes = film(name, "t2v", "synchronous")
    estimate = estimate_memory(plan, sizes)
    turns, num_films = DecodingTurns(torch.device("cpu")), 1 if tiling else FILMS_AT_ONCE
    with fake_transfers(), FAKE, LiveMemory("cpu") as host, DryRun() as counted:
        height, width = plan.latent_height, plan.latent_width
        vae = fake_vae()
        films = [frame_decoder(vae, height=height, width=width, tiling=tiling) for _ in range(num_films)]
        before, counted.peak_bytes = counted.live_bytes, 0
        for _ in range(NUM_LATENT_FRAMES):
            for one in films:
                turns.take(one)
                one.decode(torch.empty(1, 16, 1, height, width, device="cuda"))
    peak = counted.peak_bytes - before
    tiled = device_bytes(plan, sizes, parse_memory("vae_tiling")) - device_bytes(plan, sizes, parse_memory("auto"))
    expected = estimate.decoding_bytes + tiled * tiling
    print(f"{name}: device {peak / 1e9:.3f} GB, expected {expected / 1e9:.3f}, host {host.live_bytes / 1e9:.3f}")
    assert expected == pytest.approx(peak, rel=0.05)
    if not tiling:
        assert estimate.parked_bytes == pytest.approx(host.live_bytes, rel=0.05)


def test_fused_norms_move_less_and_hold_no_more() -> None:
    pytest.importorskip("triton", reason="the kernel is written in Triton")
    moved, peak = {}, {}
    for fused in (False, True):
        with fake_transfers(), FAKE:
            vae = fake_vae()
            if fused:
                fuse_blocks(vae)
            decoder = frame_decoder(vae, height=68, width=120, tiling=False)
            for _ in range(NUM_LATENT_FRAMES):
                with DryRun() as counted:
                    decoder.decode(torch.empty(1, 16, 1, 68, 120, device="cuda"))
        moved[fused], peak[fused] = counted.moved_bytes["elementwise"] / 1e9, counted.peak_bytes / 1e9
    print(f"GB moved a latent frame: {moved}, GB at its fullest: {peak}")
    assert moved[False] == pytest.approx(159, rel=0.02)
    assert moved[True] == pytest.approx(68, rel=0.02)
    assert peak[True] <= peak[False]
