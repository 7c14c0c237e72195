"""Decoding in a stream: bit-equal to one `vae.decode`, in memory that does not grow with the film."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from render_farm.engine import Engine, StreamingDecoder
from render_farm.media.mp4 import probe_mp4
from tests.helpers.parity_jobs import make_job
from tests.helpers.whole_decoding import noise, whole


@pytest.mark.parametrize("pieces", [[1], [7], [1, 1, 1, 4], [3, 4], [6, 1]])
def test_pieces_equal_the_whole(pieces: list[int], engine: Engine) -> None:
    latents = noise(sum(pieces))
    decoder = StreamingDecoder(engine.vae)
    frames = [frame for piece in latents.split(pieces, dim=2) for frame in decoder.push(piece)]
    assert np.array_equal(np.stack(frames), whole(engine.vae, latents))
    assert frames[0].flags["C_CONTIGUOUS"]


def test_decoders_do_not_disturb_each_other(engine: Engine) -> None:
    first, second = noise(5, seed=1), noise(5, seed=2)
    decoders = StreamingDecoder(engine.vae), StreamingDecoder(engine.vae)
    frames: tuple[list, list] = ([], [])
    for i in range(5):
        for decoder, latents, out in zip(decoders, (first, second), frames, strict=True):
            out.extend(decoder.push(latents[:, :, i : i + 1]))
        whole(engine.vae, noise(2))  # diffusers' own decoding, which uses the caches in the VAE
    assert np.array_equal(np.stack(frames[0]), whole(engine.vae, first))
    assert np.array_equal(np.stack(frames[1]), whole(engine.vae, second))


def test_frames_not_taken_come_with_the_next_push(engine: Engine) -> None:
    latents = noise(4)
    decoder = StreamingDecoder(engine.vae)
    decoder.push(latents[:, :, :3])
    assert np.array_equal(np.stack(list(decoder.push(latents[:, :, 3:]))), whole(engine.vae, latents))


def test_frames_are_a_new_iterator_each_time(engine: Engine) -> None:
    video = engine.render(make_job(num_frames=17))
    assert (video.num_frames, video.fps) == (17, 24)
    frames = video.frames
    first = next(frames)
    assert np.array_equal(first, next(video.frames))
    assert len(list(frames)) == 16


_DECODE = """
import resource, sys
import torch
from diffusers import AutoencoderKLWan
from render_farm.engine import StreamingDecoder

torch.set_num_threads(1)
torch.manual_seed(0)
vae = AutoencoderKLWan(base_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=0).eval()
decoder = StreamingDecoder(vae)
num_frames = 0
for wanted in map(int, sys.argv[1:]):
    while num_frames < wanted:
        for frame in decoder.push(torch.randn(1, 16, 25, 16, 16)):
            assert frame.shape == (128, 128, 3)
            num_frames += 1
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_film() -> None:
    """2,000 frames at 128x128 peak within 20 % of the first 200."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _DECODE, "200", "2000"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    short, long = map(int, done.stdout.split())
    print(f"peak resident memory: 200 frames {short / 1024:.0f} MiB, 2,000 frames {long / 1024:.0f} MiB")
    assert long <= 1.2 * short


def test_a_video_is_saved_with_the_jobs_rate(engine: Engine, tmp_path: Path) -> None:
    engine.render(make_job(num_frames=17, fps=16)).save(tmp_path / "a.mp4")
    info = probe_mp4(tmp_path / "a.mp4")
    assert (info.width, info.height, info.fps, info.num_frames) == (48, 32, 16, 17)
