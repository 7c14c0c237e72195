"""Noise depends on seed, segment and window alone."""

from __future__ import annotations

import itertools

import torch

from render_farm import RenderJob
from render_farm.engine.denoising.noise import PrefixNoise, window_noise
from render_farm.planning import plan_film, spec_of_preset


def test_each_window_draws_its_whole_span_in_order() -> None:
    job = RenderJob(job_id="a", prompt="x", num_frames=69, base_num_frames=37, overlap_history=17, seed=5)
    plan = plan_film(job, spec_of_preset("tiny"))
    generator = torch.Generator().manual_seed(5)
    for segment, num_latent_frames in enumerate([10, 10, 8]):
        expected = torch.randn((1, 16, num_latent_frames, 8, 8), generator=generator)
        assert torch.equal(window_noise(plan, segment), expected)


def test_prefix_noise_is_a_stream_of_seed_and_segment() -> None:
    def draws(seed: int, segment: int) -> torch.Tensor:
        stream = PrefixNoise(seed=seed, segment=segment)
        return torch.stack([stream.draw((2, 3)), stream.draw((2, 3))])

    assert torch.equal(draws(1, 1), draws(1, 1))
    streams = [draws(1, 1), draws(1, 2), draws(2, 1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(streams, 2))
    assert not torch.equal(*draws(1, 1))
