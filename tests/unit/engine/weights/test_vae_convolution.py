"""The VAE's convolutions with one copy less give what diffusers' give, bit for bit."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan

from render_farm.engine.weights.vae_convolution import OneCopyConvolution, copy_once


def test_a_video_is_encoded_and_decoded_to_the_same_bits() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1).eval()
    video, latents = torch.randn(1, 3, 13, 32, 48), torch.randn(1, 4, 4, 4, 6)
    with torch.no_grad():
        expected = vae.encode(video).latent_dist.mean, vae.decode(latents).sample
        copy_once(vae)
        assert isinstance(vae.decoder.conv_in, OneCopyConvolution)
        assert torch.equal(vae.encode(video).latent_dist.mean, expected[0])
        assert torch.equal(vae.decode(latents).sample, expected[1])
