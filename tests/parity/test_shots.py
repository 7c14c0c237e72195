"""Films of shots: a prompt list where they say no more, and at a cut the films of their takes. All bit-identical."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from render_farm.engine import Engine, StepProgress, Video
from render_farm.shots import Shot
from tests.helpers.parity_jobs import LONG, make_job

BALL, CUBE, WATER = "a red ball", "a blue cube", "a green ball over water"
BLOCKS = {"causal_block_size": 5, "ar_step": 2, "addnoise_condition": 20}


def frames(*videos: Video) -> Iterator[np.ndarray]:
    for video in videos:
        yield from video.frames


def assert_same(film: Video, *takes: Video) -> None:
    assert torch.equal(film.latents, torch.cat([take.latents for take in takes], dim=2))
    assert film.num_frames == sum(take.num_frames for take in takes)
    pairs = zip(frames(film), frames(*takes), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs), "decoding starts again at a cut"


def test_shots_without_cuts_are_a_prompt_list(engine: Engine) -> None:
    shots = [Shot(prompt=BALL), Shot(prompt=CUBE, num_frames=40)]
    assert_same(
        engine.render(make_job(prompt=None, shots=shots, **LONG)),
        engine.render(make_job(prompt=(BALL, CUBE), num_frames=77, **LONG)),
    )


@pytest.mark.parametrize("parameters", [{}, BLOCKS, {"sampler": "distilled", "num_inference_steps": None}])
def test_a_film_with_a_cut_is_two_films(parameters: dict, engine: Engine) -> None:
    """The second begins in the middle of the film: its noise, the noise on its prefixes and its decoding start anew."""
    second = [Shot(prompt=CUBE, cut=True, num_frames=57), Shot(prompt=WATER)]
    seen: list[StepProgress] = []
    film = engine.render(
        make_job(prompt=None, shots=[Shot(prompt=BALL, num_frames=57), *second], **LONG, **parameters), seen.append
    )
    one = engine.render(make_job(prompt=BALL, num_frames=57, **LONG, **parameters))
    two = engine.render(make_job(prompt=(CUBE, CUBE, WATER), num_frames=77, **LONG, **parameters))
    assert_same(film, one, two)
    assert film.plan.segment_keys == one.plan.segment_keys + two.plan.segment_keys
    assert sorted({step.segment for step in seen}) == [0, 1, 2, 3, 4] and {step.num_segments for step in seen} == {5}


@pytest.mark.parametrize("parameters", [{}, BLOCKS])
def test_a_seed_replaces_the_stream_from_its_shot_on(parameters: dict, engine: Engine) -> None:
    def film(**second) -> torch.Tensor:
        shots = [Shot(prompt=BALL), Shot(prompt=CUBE, **second), Shot(prompt=WATER)]
        return engine.render(make_job(prompt=None, shots=shots, **LONG, **parameters)).latents

    before, same, other = film(), film(seed=11), film(seed=12)
    assert torch.equal(before[:, :, :10], same[:, :, :10]) and torch.equal(same[:, :, :10], other[:, :, :10])
    for one, two in ((before, same), (before, other), (same, other)):
        for new in (slice(10, 15), slice(15, 20)):
            assert not torch.equal(one[:, :, new], two[:, :, new])


def test_a_short_window_in_the_middle_and_guidance_of_its_own(engine: Engine) -> None:
    first = [Shot(prompt=BALL), Shot(prompt=CUBE, num_frames=8)]
    film = engine.render(make_job(prompt=None, shots=[*first, Shot(prompt=WATER, guidance_scale=3)], **LONG))
    short = engine.render(make_job(prompt=(BALL, CUBE), num_frames=45, **LONG))
    assert film.num_frames == 65 and film.latents.shape[2] == 17
    assert torch.equal(film.latents[:, :, :12], short.latents)
    usual = engine.render(make_job(prompt=None, shots=[*first, Shot(prompt=WATER)], **LONG))
    assert torch.equal(film.latents[:, :, :12], usual.latents[:, :, :12])
    assert not torch.equal(film.latents[:, :, 12:], usual.latents[:, :, 12:])
