"""What is said of jobs that can be rendered and had better not be."""

from __future__ import annotations

import pytest

from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset

BLOCKS = {"causal_block_size": 5, "ar_step": 5}


def warnings(model: str, **columns) -> str:
    return "\n".join(plan_film(RenderJob(job_id="a", prompt="x", **columns), spec_of_preset(model)).warnings)


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
