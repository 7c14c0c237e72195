"""Where diffusers warns, the plan warns; where it fails, the plan refuses: both run on the same parameters."""

from __future__ import annotations

import inspect
import sys
from unittest import mock

import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
)

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.planning import plan_film
from tests.helpers.reference_loop import FACTS, IMAGE, INPUTS, ReferenceLoop, loop_of

PIPELINES = {
    "t2v": SkyReelsV2DiffusionForcingPipeline,
    "i2v": SkyReelsV2DiffusionForcingImageToVideoPipeline,
    "flf2v": SkyReelsV2DiffusionForcingImageToVideoPipeline,
    "v2v": SkyReelsV2DiffusionForcingVideoToVideoPipeline,
}
SMALL = {"num_inference_steps": 2, "base_num_frames": 37, "overlap_history": 17}


def run_reference(task: str, values: dict) -> list[str]:
    """Run diffusers' loop; returns what it warned of."""
    inputs = {
        "t2v": {},
        "i2v": {"image": IMAGE},
        "flf2v": {"image": IMAGE, "last_image": IMAGE},
        "v2v": {"video": torch.zeros(1, 3, 24, 16, 16)},
    }[task]
    cls = PIPELINES[task]
    loop = ReferenceLoop(FACTS.defaults.flow_shift) if task == "t2v" else loop_of(cls, **inputs)
    with mock.patch.object(sys.modules[cls.__module__].logger, "warning") as warning:
        loop.run(**SMALL | values)
    return [call.args[0] for call in warning.call_args_list]


def plan(task: str, values: dict):
    job = {"job_id": "a", "prompt": "x", "height": 16, "width": 16, "keep_overlap": True, **INPUTS[task]}
    return plan_film(RenderJob(**job | SMALL | values), FACTS)


WARNINGS = [
    (
        {"num_frames": 34},
        "has to be divisible by 4. Rounding",
        "num_frames 34 is not of the form 4n+1; 33 are rendered",
    ),
    (
        {"num_frames": 36},
        "has to be divisible by 4. Rounding",
        "num_frames 36 is not of the form 4n+1; 37 are rendered",
    ),
    (
        {"num_frames": 37, "addnoise_condition": 61},
        "too large (61)",
        "addnoise_condition 61 is large and may make windows",
    ),
]


@pytest.mark.parametrize("task", PIPELINES)
@pytest.mark.parametrize(("values", "theirs", "ours"), WARNINGS)
def test_the_plan_warns_where_diffusers_does(task, values, theirs, ours):
    (said,) = run_reference(task, values)
    assert theirs in said
    assert ours in " ".join(plan(task, values).warnings)


@pytest.mark.parametrize("task", ["t2v", "v2v"])
def test_a_cut_prefix_is_said(task):
    values = {"num_frames": 57, "causal_block_size": 2}
    said = run_reference(task, values)
    assert said
    assert all("truncated by 1 frames for the causal block size alignment" in line for line in said)
    (ours,) = plan(task, values).warnings
    assert "5 latent frames, not a multiple of causal_block_size 2: each window takes over 1 fewer" in ours


@pytest.mark.parametrize("task", PIPELINES)
def test_neither_warns_of_what_is_usual(task):
    values = {"num_frames": 37, "addnoise_condition": 60}
    assert run_reference(task, values) == []
    assert plan(task, values).warnings == ()


CRASHES = [
    ("t2v", {"num_frames": 57, "overlap_history": 37}, "overlap_history: 37 leaves no new frames in a window"),
    ("t2v", {"num_frames": 57, "overlap_history": 41}, "overlap_history: 41 leaves no new frames in a window"),
    ("t2v", {"num_frames": 41, "causal_block_size": 5}, "causal_block_size: 5 does not divide window 1, which has 6"),
    ("i2v", {"num_frames": 57, "overlap_history": 37}, "overlap_history: 37 leaves no new frames in a window"),
    ("v2v", {"num_frames": 13}, "num_frames: 13 leaves nothing to render after the 17 frames of overlap_history"),
    ("v2v", {"num_frames": 57, "overlap_history": 37}, "overlap_history: 37 leaves no new frames in a window"),
]


@pytest.mark.parametrize(("task", "values", "message"), CRASHES)
def test_the_plan_refuses_what_diffusers_fails_on(task, values, message):
    with pytest.raises((ZeroDivisionError, IndexError, RuntimeError, AttributeError)):
        run_reference(task, values)
    with pytest.raises(InvalidJobError) as caught:
        plan(task, values)
    assert message in "; ".join(map(str, caught.value.problems))


@pytest.mark.parametrize("task", PIPELINES)
def test_a_size_that_is_no_multiple_of_16(task):
    check = PIPELINES[task].check_inputs
    given = {"prompt": "x", "image": IMAGE, "video": IMAGE, "height": 24, "width": 16}
    names = [name for name, p in inspect.signature(check).parameters.items() if p.default is p.empty or name in given]
    with pytest.raises(ValueError, match="have to be divisible by 16"):
        check(**{name: given.get(name) for name in names})
    with pytest.raises(InvalidJobError, match="height: 24 is not a multiple of 16; the nearest are 16 and 32"):
        RenderJob(job_id="a", prompt="x", height=24)
