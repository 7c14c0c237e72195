"""What is said of jobs that can be rendered and had better not be."""

from __future__ import annotations

import pytest

from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.advice import on_picture

BLOCKS = {"causal_block_size": 5, "ar_step": 5}


def warnings(model: str, **columns) -> str:
    job = RenderJob(**{"job_id": "a", "prompt": "x", **columns})
    return "\n".join(plan_film(job, spec_of_preset(model)).warnings)


def test_a_blank_prompt():
    assert "prompt is blank: nothing says what the film should show" in warnings("tiny", prompt=["x", " "])
    assert warnings("tiny", prompt="") and not warnings("tiny", prompt="x")


@pytest.mark.parametrize(
    ("model", "columns", "is_said"),
    [
        ("df-14b-540p", {**BLOCKS, "block_attention": "causal"}, True),
        ("df-14b-540p", BLOCKS, False),
        ("df-14b-540p", {"block_attention": "causal"}, False),
        ("tiny", {**BLOCKS, "block_attention": "causal"}, False),
    ],
)
def test_what_the_makers_say_of_the_causal_mask(model, columns, is_said):
    assert ("released models do not support causal attention" in warnings(model, **columns)) is is_said


def test_what_usually_goes_wrong_with_few_steps():
    bare = warnings("t2v-14b-540p", sampler="distilled")
    assert "sampler distilled without a LoRA: unless t2v-14b-540p was itself distilled" in bare
    assert "guidance" not in bare
    lora = {"sampler": "distilled", "loras": [{"path": "few.safetensors"}]}
    assert not warnings("t2v-14b-540p", **lora)
    assert "guidance_scale 5 with sampler distilled" in warnings("t2v-14b-540p", **lora, guidance_scale=5)
    assert "without diffusion forcing (t2v-14b-*, i2v-14b-*)" in warnings("df-14b-540p", **lora)


@pytest.mark.parametrize("cache", ["first_block:0.1", "first_block:0.1+guidance:0.5"])
def test_step_caches_do_not_fit_diffusion_forcing(cache):
    said = "cache first_block:0.1 with df-14b-540p: the makers of SkyReels-V2 say that caches of this kind do not fit"
    assert said in warnings("df-14b-540p", cache=cache)
    assert "makers" not in warnings("t2v-14b-540p", cache=cache) + warnings("tiny", cache=cache)
    assert "makers" not in warnings("df-14b-540p", cache="guidance:0.5")


def test_a_share_of_no_guidance():
    assert "the share of guidance has no effect" in warnings("tiny", cache="guidance:0.5", guidance_scale=1)
    assert warnings("tiny", cache="guidance:0.5") == ""


@pytest.mark.parametrize(
    ("num_frames", "addnoise_condition", "said"),
    [
        (257, 0, ""),
        (337, 0, "addnoise_condition 0 in a film of 4 segments"),
        (337, 20, ""),
        (97, 61, "addnoise_condition 61 is large"),
    ],
)
def test_noise_on_what_long_films_continue_from(num_frames, addnoise_condition, said):
    found = warnings("df-1.3b-540p", num_frames=num_frames, addnoise_condition=addnoise_condition)
    assert found.startswith(said) and bool(found) is bool(said)


def test_a_portrait_picture_in_a_landscape_film():
    job = plan_film(RenderJob(job_id="a", prompt="x", image="a.png"), spec_of_preset("df-1.3b-540p")).job
    assert list(on_picture(job, "image", 720, 1280)) == [
        "image: is portrait (720x1280) in a landscape film (960x544), so that fit crop cuts off its top and bottom; "
        "the makers' own program would make the film 544x960 (width 544, height 960)"
    ]
    assert list(on_picture(job, "image", 1280, 720)) == list(on_picture(job, "image", 720, 720)) == []
