"""What is refused before rendering, each with the field and a way out that really works."""

from __future__ import annotations

import re

import pytest

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset

FACTS = spec_of_preset("tiny")


def plan(**values):
    return plan_film(RenderJob(job_id="a", prompt=values.pop("prompt", "x"), **values), FACTS)


def refusal(**values) -> str:
    with pytest.raises(InvalidJobError) as caught:
        plan(**values)
    return "; ".join(map(str, caught.value.problems))


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"num_frames": 109, "causal_block_size": 5}, "causal_block_size: 5 does not divide window 1"),
        ({"num_frames": 261, "causal_block_size": 5}, "causal_block_size: 5 does not divide window 3"),
        ({"num_inference_steps": 334}, "num_inference_steps: 334 is too many for flow_shift 3"),
        ({"num_inference_steps": 126, "flow_shift": 8}, "num_inference_steps: 126 is too many for flow_shift 8"),
        ({"num_frames": 257, "overlap_history": 97}, "overlap_history: 97 leaves no new frames"),
        ({"num_frames": 257, "base_num_frames": 1}, "overlap_history: 17 leaves no new frames"),
        ({"task": "i2v"}, "image: is missing; task i2v needs image"),
        ({"task": "t2v", "image": "cat.png"}, "image: is given, but task t2v takes none"),
        ({"ulysses": 3}, "ulysses: 3 does not divide the 4 attention heads"),
    ],
)
def test_refused_with_the_field_and_the_value(values, start):
    assert refusal(**values).startswith(start)


def test_frames_left_without_a_whole_block_are_refused():
    # 9 latent frames, windows of 6 with 4 shared: the last window has 5 frames of which 4 are given, blocks of 4
    message = refusal(num_frames=29, base_num_frames=29, overlap_history=13, causal_block_size=5)
    assert "does not divide window 0" in message
    message = refusal(num_frames=37, base_num_frames=33, overlap_history=21, causal_block_size=3)
    assert "whole block" in message or "does not divide" in message


@pytest.mark.parametrize(
    "values",
    [
        {"num_frames": 109, "causal_block_size": 5},
        {"num_frames": 261, "causal_block_size": 5},
        {"num_frames": 50, "causal_block_size": 3, "base_num_frames": 45, "overlap_history": 9},
    ],
)
def test_the_frame_counts_offered_do_work(values):
    message = refusal(**values)
    offered = re.search(r"num_frames (\d+)(?: or (\d+))? would work", message)
    assert offered, message
    for count in filter(None, offered.groups()):
        plan(**{**values, "num_frames": int(count)})


def test_a_window_that_can_never_be_whole_gets_another_window_offered():
    message = refusal(num_frames=241, base_num_frames=121, causal_block_size=5)
    base, count = re.search(r"base_num_frames (\d+) with num_frames (\d+)", message).groups()
    plan(num_frames=int(count), base_num_frames=int(base), causal_block_size=5)


def test_several_reasons_come_at_once():
    message = refusal(num_inference_steps=900, task="t2v", image="x.png", num_frames=109, causal_block_size=5)
    assert all(field in message for field in ("image:", "num_inference_steps:", "causal_block_size:"))


def test_warnings_of_what_is_rendered_otherwise_than_written():
    rounded = plan(num_frames=100)
    assert rounded.num_frames == 101
    assert "101 are rendered" in rounded.warnings[0]
    cut = plan(num_frames=173, overlap_history=21, causal_block_size=5, base_num_frames=97)
    assert "takes over 1 fewer" in " ".join(cut.warnings)
    assert "prompts for 1 segments" in plan(prompt=["a", "b"], num_frames=97).warnings[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"step_list": [900, 300]}, "step_list: is for sampler distilled, and sampler is reference"),
        (
            {"sampler": "distilled", "num_inference_steps": 50},
            "num_inference_steps: 50 are not the 4 of step_list; leave it null",
        ),
    ],
)
def test_steps_that_contradict_each_other_are_refused(columns: dict, message: str) -> None:
    assert refusal(**columns) == message


def test_halves_of_a_group_need_both_branches_in_every_step() -> None:
    assert refusal(cache="guidance:0.5", cfg_parallel=2) == (
        "cfg_parallel: 2 would leave half of the group idle in the steps for which cache guidance:0.5 leaves out a "
        "guidance branch; ulysses 2 with cfg_parallel 1 uses all of it"
    )
    assert plan(cache="guidance:0.5", ulysses=2) and plan(cache="guidance:1", cfg_parallel=2)
    assert plan(cache="guidance:0.5", cfg_parallel=2, guidance_scale=1), "guidance is off"
