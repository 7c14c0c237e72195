"""`shots` of a job: what a shot may hold, and what does not go together with shots."""

from __future__ import annotations

import math

import pytest

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.shots import MAX_SHOTS, Shot


def refused(**values) -> str:
    with pytest.raises(InvalidJobError) as caught:
        RenderJob(job_id="a", **values)
    return "; ".join(map(str, caught.value.problems))


def test_shots_give_the_prompt_list():
    given = [{"prompt": "x"}, {"prompt": "y", "num_frames": 80.0, "cut": True, "seed": 3, "image": "a.png"}]
    job = RenderJob(job_id="a", shots=given)
    assert job.shots == (Shot(prompt="x"), Shot(prompt="y", num_frames=80, cut=True, seed=3, image="a.png"))
    assert job.prompt == job.prompts == ("x", "y")
    assert RenderJob(job_id="a", prompt=["x", "y"], shots=job.shots) == job, "as manifests are written"
    assert RenderJob(job_id="a", shots=[Shot(prompt="x")]).prompt == "x"


def test_null_fields_are_not_given():
    nulls = {"num_frames": math.nan, "cut": None, "seed": None, "guidance_scale": math.nan, "image": None}
    assert RenderJob(job_id="a", shots=[{"prompt": "x", **nulls}]).shots == (Shot(prompt="x"),)
    assert RenderJob(job_id="a", prompt="x", shots=math.nan).shots is None


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        ([], "shots: is an empty list; give at least one shot, or prompt instead"),
        ("x", "shots: is not a list of shots; a shot is {prompt, num_frames, cut, seed, guidance_scale, image}"),
        (7, "is not a list of shots"),
        ([7], "shot 1 is not {prompt, num_frames"),
        ([{"num_frames": 5}], "shot 1: prompt: is required"),
        ([{"prompt": "x"}, {"prompt": None}], "shot 2: prompt: is required"),
        ([{"prompt": ["x", "y"]}], "shot 1: prompt: ['x', 'y'] is not text"),
        ([{"prompt": "['x', 'y']"}], "looks like a list written as text"),
        ([{"prompt": "x", "frames": 3}], "shot 1: 'frames' is not known; it has prompt, num_frames, cut"),
        ([{"prompt": "x", "num_frames": 0}], "shot 1: num_frames: 0 is less than 1"),
        ([{"prompt": "x", "num_frames": 5.5}], "shot 1: num_frames: 5.5 is not a whole number"),
        ([{"prompt": "x", "seed": -1}], "shot 1: seed: -1 is less than 0"),
        ([{"prompt": "x", "guidance_scale": 101}], "shot 1: guidance_scale: 101.0 is more than 100"),
        ([{"prompt": "x", "cut": "yes"}], "shot 1: cut: 'yes' is not true or false"),
        ([{"prompt": "x"}, {"prompt": "y", "image": "i"}], "shot 2: image: is the first frame of a shot that starts"),
        ([{"prompt": "x"}] * (MAX_SHOTS + 1), "has 1,001 entries; the most is 1,000"),
        ([{"prompt": "x" * 20_001}], "shot 1: prompt: has 20,001 characters"),
        ([{"prompt": "x", "guidance_scale": 10**400}], "shot 1: guidance_scale: is far out of range"),
        (
            [{"prompt": "x", "num_frames": 0, "seed": -1}, {"prompt": 5}, 7],
            "shot 1: num_frames: 0 is less than 1; shot 1: seed: -1 is less than 0; shot 2: prompt: 5 is not text; "
            "shot 3 is not {",
        ),
    ],
)
def test_what_is_no_shot_is_refused(shots, message):
    assert message in refused(shots=shots)


def test_what_shots_have_themselves_is_refused_beside_them():
    shots = [{"prompt": "x", "image": "i"}]
    assert refused(shots=shots, prompt="y").startswith("prompt: is given with shots, which have their own")
    assert refused(shots=shots, num_frames=97).startswith("num_frames: is given with shots")
    assert refused(shots=shots, image="j").startswith("image: is given with shots")
    assert refused() == "prompt: is required"


def test_what_is_missing_is_judged_by_what_was_read():
    """`RenderJob(**row)` of a data frame gives NaN for null."""
    shots = [{"prompt": "x"}]
    assert RenderJob(job_id="a", prompt=math.nan, shots=shots) == RenderJob(job_id="a", shots=shots)
    assert refused(prompt=None, shots=math.nan) == "prompt: is required"
    assert refused(prompt=math.nan, seed=-1) == "prompt: is required; seed: -1 is less than 0"
