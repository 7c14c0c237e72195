"""v2v equals diffusers' `SkyReelsV2DiffusionForcingVideoToVideoPipeline`, but for the frames it shows twice."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from render_farm import RenderJob
from render_farm.engine import Engine, Inputs, load_engine
from render_farm.errors import InputError, InvalidJobError, UsageError
from render_farm.media.mp4 import Mp4Writer, probe_mp4, read_frames
from tests.helpers.film_rounding import rounding_of_film
from tests.helpers.parity_jobs import LONG, TOLERANCE, make_job
from tests.helpers.reference import HEIGHT, WIDTH, build_pipeline, make_inputs, pipeline_for, render_reference


def video_job(**parameters: Any) -> RenderJob:
    return make_job(**({"video": "before.mp4", "fit": "stretch", **LONG} | parameters))


def largest_difference(engine: Engine, reference: Any, job: RenderJob, inputs: Inputs) -> float:
    video = engine.render(job, inputs=inputs)
    theirs = render_reference(reference, video.plan, inputs=inputs)
    assert video.latents.shape == theirs.shape
    assert video.latents.dtype == torch.float32
    return (video.latents - theirs).abs().max().item()


FILMS = {
    "one window, one new latent frame": {"num_frames": 21},
    "one window": {"num_frames": 33},
    "one window, rounded up": {"num_frames": 36},
    "one window, overlap of one frame": {"num_frames": 17, "overlap_history": 1},
    "one window, other shift, seed and size": {"num_frames": 33, "flow_shift": 8.0, "seed": 2**40, "height": 48},
    "one window, guidance off, 16 frames a second": {"num_frames": 29, "guidance_scale": 0.0, "fps": 16},
    "one whole window": {"num_frames": 37},
    "one window, ar_step 2, no blocks": {"num_frames": 33, "ar_step": 2},
    "one window, blocks of 5, ar_step 2": {"num_frames": 37, "causal_block_size": 5, "ar_step": 2},
    "one window, blocks of 2, prefix cut to 4, ar_step 1": {"num_frames": 37, "causal_block_size": 2, "ar_step": 1},
    "one window, blocks of 2, prefix cut to none": {"num_frames": 37, "overlap_history": 1, "causal_block_size": 2},
    "one window, addnoise 20.7": {"num_frames": 33, "addnoise_condition": 20.7},
    "one window, addnoise 20, blocks of 5, ar_step 2": {
        "num_frames": 37,
        "addnoise_condition": 20,
        "causal_block_size": 5,
        "ar_step": 2,
    },
    "two windows": {"num_frames": 57},
    "two windows, short last one": {"num_frames": 49},
    "three windows": {"num_frames": 77},
    "three windows, short last one, addnoise 20": {"num_frames": 69, "addnoise_condition": 20},
    "three windows, blocks of 5, ar_step 2": {"num_frames": 77, "causal_block_size": 5, "ar_step": 2},
    "three windows, blocks of 5, ar_step 5, addnoise 20": {
        "num_frames": 77,
        "causal_block_size": 5,
        "ar_step": 5,
        "addnoise_condition": 20,
    },
    "two windows, addnoise 40 once, blocks of 5, ar_step 2": {
        "num_frames": 57,
        "addnoise_condition": 40,
        "prefix_noise": "once",
        "causal_block_size": 5,
        "ar_step": 2,
    },
    "two windows, many steps": {"num_frames": 57, "num_inference_steps": 20, "guidance_scale": 9.0},
    "two windows, one step": {"num_frames": 57, "num_inference_steps": 1},
}


@pytest.mark.parametrize("name", FILMS)
def test_latents_equal_the_pipelines(name: str, engine: Engine, pipeline: Any) -> None:
    job = video_job(**FILMS[name])
    inputs = make_inputs("v2v", height=job.height or HEIGHT)
    assert largest_difference(engine, pipeline_for(pipeline, "v2v"), job, inputs) <= TOLERANCE


@pytest.mark.parametrize("num_input_frames", [17, 18, 30])
def test_only_the_newest_input_frames_count(num_input_frames: int, engine: Engine, pipeline: Any) -> None:
    inputs = make_inputs("v2v", num_frames=num_input_frames)
    job = video_job(num_frames=29)
    assert largest_difference(engine, pipeline_for(pipeline, "v2v"), job, inputs) <= TOLERANCE
    tail = Inputs(video=inputs.video[-17:])
    assert torch.equal(engine.render(job, inputs=inputs).latents, engine.render(job, inputs=tail).latents)


def test_model_without_sample_info(tmp_path) -> None:
    pipeline = build_pipeline(3, sample_info=False)
    pipeline.save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", dtype="float32")
    reference = pipeline_for(pipeline, "v2v")
    assert largest_difference(engine, reference, video_job(num_frames=29, fps=16), make_inputs("v2v")) <= TOLERANCE


@pytest.mark.parametrize("num_frames", [29, 57])
def test_frames_equal_the_pipelines(num_frames: int, engine: Engine, pipeline: Any) -> None:
    """diffusers gives the input's frames and then all it has rendered, the overlap twice: `keep_overlap`."""
    inputs = make_inputs("v2v", num_frames=20)
    kept = engine.render(video_job(num_frames=num_frames, keep_overlap=True), inputs=inputs)
    reference = pipeline_for(pipeline, "v2v")
    theirs = (render_reference(reference, kept.plan, output_type="np", inputs=inputs) * 255).astype(np.uint8)
    ours = np.stack(list(kept.frames))
    assert ours.shape == theirs.shape == (20 + num_frames, HEIGHT, WIDTH, 3)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert np.array_equal(ours[:20], inputs.video), "the input's frames are as they were"

    dropped = engine.render(video_job(num_frames=num_frames), inputs=inputs)
    assert torch.equal(dropped.latents, kept.latents)
    assert np.array_equal(np.stack(list(dropped.frames)), np.delete(ours, range(20, 37), axis=0))
    assert (dropped.num_frames, kept.num_frames) == (20 + num_frames - 17, 20 + num_frames)


def test_the_overlap_is_left_out_however_the_segments_come(engine: Engine) -> None:
    video = engine.render(video_job(num_frames=57), inputs=make_inputs("v2v"))
    decoder, frames = engine.decoder(video.plan), []
    for piece in video.latents.split([3, 7, 5], dim=2):
        frames += decoder.push(piece)
    assert np.array_equal(np.stack(frames), np.stack(list(video.frames))[21:])


def test_segments_can_be_rendered_one_by_one(engine: Engine) -> None:
    job = video_job(num_frames=77, causal_block_size=5, ar_step=2, addnoise_condition=20)
    inputs = make_inputs("v2v")
    whole = engine.render(job, inputs=inputs).latents
    plan = engine.plan(job)
    embeddings, conditioning = engine.encode_prompts(plan.texts), engine.encode_conditioning(plan, inputs)
    first = engine.render_segment(plan, 0, history=None, embeddings=embeddings, conditioning=conditioning)
    assert torch.equal(first, whole[:, :, :10])
    second = engine.render_segment(plan, 1, history=first[:, :, -5:], embeddings=embeddings)
    assert torch.equal(second, whole[:, :, 10:15])
    with pytest.raises(UsageError, match="segment 0 of a v2v film needs prefix latents"):
        engine.render_segment(plan, 0, history=None, embeddings=embeddings)


def test_a_video_is_read_from_its_uri(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "before.mp4"
    with Mp4Writer(path, width=WIDTH, height=HEIGHT, fps=24, quality=10) as writer:
        for frame in make_inputs("v2v", num_frames=20).video:
            writer.append(frame)
    before = np.stack(list(read_frames(path)))
    video = engine.render(video_job(num_frames=29, video=str(path)))
    assert torch.equal(video.latents, engine.render(video_job(num_frames=29), inputs=Inputs(video=before)).latents)
    frames = np.stack(list(video.frames))
    assert np.array_equal(frames[:20], before)
    assert len(frames) == video.num_frames == 20 + 29 - 17
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert video.plan.job.input_digests == (("video", digest),)

    video.save(tmp_path / "after.mp4")
    assert probe_mp4(tmp_path / "after.mp4").num_frames == 32


def test_the_cache_does_not_change_the_result(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    job, inputs = video_job(num_frames=57, causal_block_size=5, ar_step=2), make_inputs("v2v")
    cached = engine.render(job, inputs=inputs)
    monkeypatch.setattr("render_farm.engine.engine.cache_budget_bytes", lambda *_: 0)
    recomputed = engine.render(job, inputs=inputs).latents
    assert (cached.latents - recomputed).abs().max() <= rounding_of_film(engine, cached)


def test_another_video_would_be_seen(engine: Engine) -> None:
    job = video_job(num_frames=29)
    one, other = (engine.render(job, inputs=make_inputs("v2v", seed=seed)) for seed in (0, 1))
    assert (one.latents[:, :, 5:] - other.latents[:, :, 5:]).abs().max() > 10 * TOLERANCE
    assert one.plan.render_key != other.plan.render_key


def test_a_video_shorter_than_the_overlap_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="video: its 16 frames are fewer than the 17 of overlap_history"):
        engine.render(video_job(num_frames=29), inputs=make_inputs("v2v", num_frames=16))


def test_blocks_that_leave_noise_are_refused(engine: Engine) -> None:
    with pytest.raises(InvalidJobError, match="causal_block_size: 5 does not divide window 0"):
        engine.render(video_job(num_frames=33, causal_block_size=5), inputs=make_inputs("v2v"))
