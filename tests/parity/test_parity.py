"""`engine.render` equals diffusers' pipeline: same parameters, same seed, float32 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from render_farm import RenderJob
from render_farm.engine import Engine, load_engine
from tests.helpers.parity_jobs import LONG, TOLERANCE, make_job
from tests.helpers.reference import HEIGHT, WIDTH, build_pipeline, render_reference, unaliased_scheduler


def largest_difference(engine: Engine, pipeline: Any, job: RenderJob) -> float:
    ours = engine.render(job).latents
    theirs = render_reference(pipeline, engine.plan(job))
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    return (ours - theirs).abs().max().item()


FILMS = {
    "one frame": {"num_frames": 1},
    "short": {"num_frames": 17},
    "short, rounded up": {"num_frames": 16},
    "short, rounded down": {"num_frames": 19},
    "short, other shift, seed and size": {"num_frames": 17, "flow_shift": 8.0, "seed": 2**40, "height": 48},
    "short, blocks of 5, synchronous": {"num_frames": 37, "causal_block_size": 5},
    "short, blocks of 5, ar_step 2": {"num_frames": 57, "causal_block_size": 5, "ar_step": 2},
    "short, blocks of 2, ar_step 5 (more than the steps)": {"num_frames": 37, "causal_block_size": 2, "ar_step": 5},
    "short, guidance off": {"num_frames": 17, "guidance_scale": 1.0},
    "short, 16 frames a second": {"num_frames": 17, "fps": 16},
    "long": {"num_frames": 77, **LONG},
    "long, short last window": {"num_frames": 69, **LONG},
    "long, guidance off, 16 frames a second": {"num_frames": 69, **LONG, "guidance_scale": 0.0, "fps": 16},
    "long, overlap not 4n+1": {"num_frames": 77, "base_num_frames": 37, "overlap_history": 18},
    "long, overlap and window not 4n+1, blocks of 5, ar_step 1": {
        "num_frames": 77,
        "base_num_frames": 39,
        "overlap_history": 20,
        "causal_block_size": 5,
        "ar_step": 1,
    },
    "long, no blocks, ar_step 3": {"num_frames": 57, **LONG, "ar_step": 3},
    "long, blocks of 2, prefix cut to 4, ar_step 1": {"num_frames": 57, **LONG, "causal_block_size": 2, "ar_step": 1},
    "257/97/17, blocks of 5, ar_step 2": {
        "num_frames": 257,
        "base_num_frames": 97,
        "overlap_history": 17,
        "causal_block_size": 5,
        "ar_step": 2,
    },
    "257/97/37, blocks of 5, ar_step 1": {
        "num_frames": 257,
        "base_num_frames": 97,
        "overlap_history": 37,
        "causal_block_size": 5,
        "ar_step": 1,
    },
    "257/97/37, synchronous": {"num_frames": 257, "base_num_frames": 97, "overlap_history": 37},
    "long, guided strongly, many steps": {
        "num_frames": 57,
        **LONG,
        "guidance_scale": 9.0,
        "num_inference_steps": 20,
        "causal_block_size": 5,
        "ar_step": 4,
    },
    "long, addnoise 20.7, no blocks": {"num_frames": 77, **LONG, "addnoise_condition": 20.7},
    "long, addnoise 20, blocks of 5, ar_step 5": {
        "num_frames": 77,
        **LONG,
        "addnoise_condition": 20,
        "causal_block_size": 5,
        "ar_step": 5,
    },
    "long, addnoise 40 once, blocks of 5, ar_step 2": {
        "num_frames": 77,
        **LONG,
        "addnoise_condition": 40,
        "prefix_noise": "once",
        "causal_block_size": 5,
        "ar_step": 2,
    },
    "long, addnoise 40 once, no blocks": {
        "num_frames": 57,
        **LONG,
        "addnoise_condition": 40,
        "prefix_noise": "once",
    },
}


@pytest.mark.parametrize("name", FILMS)
def test_latents_equal_the_pipelines(name: str, engine: Engine, pipeline: Any) -> None:
    assert largest_difference(engine, pipeline, make_job(**FILMS[name])) <= TOLERANCE


@pytest.mark.parametrize("num_inference_steps", [1, 2, 3])
@pytest.mark.parametrize("causal_block_size", [1, 5])
def test_films_of_few_steps_equal_diffusers(
    num_inference_steps: int, causal_block_size: int, engine: Engine, pipeline: Any
) -> None:
    job = make_job(
        num_frames=37,
        num_inference_steps=num_inference_steps,
        causal_block_size=causal_block_size,
        ar_step=1 if causal_block_size > 1 else 0,
    )
    assert largest_difference(engine, pipeline, job) <= TOLERANCE


@pytest.mark.parametrize("addnoise_condition", [0, 20])
@pytest.mark.parametrize("ar_step", [0, 1, 2, 3])
@pytest.mark.parametrize("causal_block_size", [1, 2, 5])
def test_every_block_size_and_lag(
    causal_block_size: int, ar_step: int, addnoise_condition: int, engine: Engine, pipeline: Any
) -> None:
    """Two windows of 10 latent frames; the prefix is 5 latent frames, or 4 with blocks of 2."""
    job = make_job(
        num_frames=57,
        **LONG,
        num_inference_steps=3,
        causal_block_size=causal_block_size,
        ar_step=ar_step,
        addnoise_condition=addnoise_condition,
    )
    assert largest_difference(engine, pipeline, job) <= TOLERANCE


@pytest.mark.parametrize(
    "parameters", [{"num_frames": 37}, {"num_frames": 57, **LONG, "causal_block_size": 5, "ar_step": 2}]
)
def test_corrected_sampler_is_the_pipelines_with_copies(
    parameters: dict[str, Any], engine: Engine, pipeline: Any
) -> None:
    with unaliased_scheduler():
        assert largest_difference(engine, pipeline, make_job(**parameters, sampler="corrected")) <= TOLERANCE


@pytest.mark.parametrize("num_frames", [1, 17, 77])
def test_frames_equal_the_pipelines(num_frames: int, engine: Engine, pipeline: Any) -> None:
    job = make_job(num_frames=num_frames, **LONG)
    video = engine.render(job)
    theirs = (render_reference(pipeline, engine.plan(job), output_type="np") * 255).astype(np.uint8)
    ours = np.stack(list(video.frames))
    assert ours.shape == theirs.shape == (num_frames, HEIGHT, WIDTH, 3)
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert ours.std() > 1, "the frames show something"


def test_model_without_sample_info_ignores_fps(tmp_path) -> None:
    pipeline = build_pipeline(3, sample_info=False)
    pipeline.save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", dtype="float32")
    assert not engine.spec.sample_info
    assert largest_difference(engine, pipeline, make_job(num_frames=17, fps=16)) <= TOLERANCE


def test_custom_folder_takes_its_block_size_from_the_checkpoint(tmp_path) -> None:
    pipeline = build_pipeline(4)
    pipeline.transformer._set_ar_attention(2)
    pipeline.save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", dtype="float32")
    job = make_job(num_frames=29, ar_step=1)
    assert engine.plan(job).job.causal_block_size == 2
    assert largest_difference(engine, pipeline, job) <= TOLERANCE
