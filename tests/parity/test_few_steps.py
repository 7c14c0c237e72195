"""`sampler: distilled` equals diffusers' `FlowMatchLCMScheduler` in its pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SkyReelsV2Pipeline

from render_farm.engine import Engine, load_engine
from tests.helpers.parity_jobs import LONG, TOLERANCE, make_job
from tests.helpers.reference import build_pipeline, load_pipeline, make_inputs, pipeline_for, render_reference

FEW = {"sampler": "distilled", "flow_shift": 5.0, "num_inference_steps": None}
BLOCKS = {"causal_block_size": 5, "ar_step": 2}

FILMS: dict[str, dict[str, Any]] = {
    "short": {"num_frames": 17},
    "other steps and shift": {"num_frames": 17, "step_list": [1000, 800, 333, 77, 3], "flow_shift": 3.3},
    "one step": {"num_frames": 17, "step_list": [900]},
    "guided all the same": {"num_frames": 17, "guidance_scale": 3.0},
    "long, short last window": {"num_frames": 69, **LONG},
    "long, addnoise 20": {"num_frames": 77, **LONG, "addnoise_condition": 20},
    "long, causal blocks, ar_step 2": {"num_frames": 77, **LONG, **BLOCKS},
    "long, full blocks, ar_step 2, addnoise 20 once": {
        "num_frames": 77,
        **LONG,
        **BLOCKS,
        "block_attention": "full",
        "addnoise_condition": 20,
        "prefix_noise": "once",
    },
    "image": {"num_frames": 21, "image": "a.png", "fit": "stretch"},
    "first and last image": {"num_frames": 21, "image": "a.png", "last_image": "b.png", "fit": "stretch"},
    "video, two windows": {"num_frames": 57, **LONG, "video": "a.mp4", "fit": "stretch"},
}


def largest_difference(engine: Engine, pipeline: Any, parameters: dict[str, Any]) -> float:
    job = make_job(**FEW | parameters)
    plan = engine.plan(job)
    inputs = None if plan.job.task == "t2v" else make_inputs(plan.job.task)
    ours = engine.render(job, inputs=inputs).latents
    theirs = render_reference(pipeline, plan, inputs=inputs)
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs().max().item()
    print(f"largest difference {difference:.1e}")  # shown by `pytest -rP`
    return difference


@pytest.mark.parametrize("name", FILMS)
def test_latents_equal_the_pipelines(name: str, engine: Engine, pipeline: Any) -> None:
    task = engine.plan(make_job(**FEW | FILMS[name])).job.task
    assert largest_difference(engine, pipeline_for(pipeline, task), FILMS[name]) <= TOLERANCE


@pytest.mark.parametrize("step_list", [None, [1000, 800, 333, 77, 3]])
def test_a_checkpoint_without_diffusion_forcing_is_given_fractions_of_timesteps(
    step_list: list[int] | None, tmp_path: Path
) -> None:
    build_pipeline(5, sample_info=False, cls=SkyReelsV2Pipeline).save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", dtype="float32")
    pipeline = load_pipeline(tmp_path, torch.float32, SkyReelsV2Pipeline)
    parameters = {"num_frames": 17, "step_list": step_list}
    assert engine.plan(make_job(**FEW | parameters)).schedule(0).timesteps[1] % 1
    assert largest_difference(engine, pipeline, parameters) <= TOLERANCE


def test_another_seed_gives_other_noise(engine: Engine) -> None:
    films = [engine.render(make_job(**FEW, num_frames=17, seed=seed)).latents for seed in (1, 1, 2)]
    assert torch.equal(films[0], films[1])
    assert not torch.equal(films[0], films[2])
