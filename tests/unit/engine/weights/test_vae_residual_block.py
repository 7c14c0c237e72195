"""The VAE's fused norm gives what diffusers' modules give, but for rounding. Triton's interpreter runs the kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKLWan

from render_farm.engine.weights.vae_convolution import copy_once

pytest.importorskip("triton", reason="the kernel is written in Triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton decides when a kernel is defined, so the tests of this file have a process of their own."""


@pytest.mark.slow
def test_in_a_process_that_interprets_kernels() -> None:
    if INTERPRETED:
        return
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout + done.stderr


interpreted = pytest.mark.skipif(not INTERPRETED, reason="test_in_a_process_that_interprets_kernels runs it")


@interpreted
@pytest.mark.parametrize("channels", [1, 6, 96])
def test_the_kernel(channels: int) -> None:
    from render_farm.engine.weights.vae_residual_block import error_of_kernel

    assert error_of_kernel(torch.device("cpu"), channels) < 1e-5


@interpreted
def test_zeros_stay_zeros_and_what_is_not_finite_does_not_hide() -> None:
    from render_farm.engine.weights.norm_kernel import norm_silu

    states = torch.zeros(1, 4, 1, 3, 5)
    states[..., 0] = torch.nan
    found = norm_silu(states, torch.ones(4, 1, 1, 1), 0, 0)
    assert found[..., 0].isnan().all()
    assert (found[..., 1:] == 0).all()


@interpreted
def test_a_film_is_decoded_and_encoded_alike() -> None:
    from render_farm.engine.weights.vae_residual_block import FusedResidualBlock, fuse_blocks

    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1).eval().requires_grad_(False)
    copy_once(vae)
    latents, video = torch.randn(1, 4, 3, 4, 6), torch.randn(1, 3, 9, 32, 48)
    expected = vae.decode(latents).sample, vae.encode(video).latent_dist.mean
    fuse_blocks(vae)
    assert isinstance(vae.decoder.mid_block.resnets[0], FusedResidualBlock)
    for one, other in zip((vae.decode(latents).sample, vae.encode(video).latent_dist.mean), expected, strict=True):
        assert not torch.equal(one, other)  # the kernel has run
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
