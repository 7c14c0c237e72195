"""Predicted steps, against the sums of other people's measurements and of what the counts were made for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm import RenderJob
from render_farm.cli.predict import lines, predict
from render_farm.errors import UsageError
from render_farm.models import PRESETS
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.cost import segment_token_passes
from render_farm.planning.group_cost import rank_bytes, step_work
from render_farm.planning.groups import GroupShape
from render_farm.planning.model_sizes import sizes_of_preset
from render_farm.planning.roofline import GPUS, H100, predicted_step, segment_work
from render_farm.planning.seconds import segments_seconds


def test_a_published_step_is_predicted_within_a_fifth() -> None:
    """LightX2V, Wan 2.1 I2V 14B, 832x480, 81 frames on one H100: 5.18 s a step, by FlashAttention 3."""
    job = RenderJob(job_id="a", prompt="x", image="any", num_frames=81, height=480, width=832)
    plan, sizes = plan_film(job, spec_of_preset("i2v-14b-540p")), sizes_of_preset(PRESETS["i2v-14b-540p"])
    assert predicted_step(segment_work(plan, 0, sizes), sizes, H100).total_s == pytest.approx(5.18, rel=0.2)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.hub_id])
def test_every_checkpoint_is_predicted_and_faster_with_more_gpus(name: str) -> None:
    for gpu in GPUS:
        found = predict(gpu, name, "sync", None)
        settings = {row["setting"]: row["step_s"] for row in found["settings"]}
        eight = settings["cfg 2 x ulysses 4 x ring 1"]
        assert 0.85 < settings["as it is"] / 8 / eight < 1, "no more than eight times as fast"
        assert settings["attention torch_flash"] > settings["as it is"] < settings["compile off"]
        assert found["resident_bytes"] < GPUS[gpu].memory_bytes
    assert any(name in line for line in lines(found))


def test_ranks_share_the_work_and_what_they_send_is_that_of_the_group_model() -> None:
    plan = plan_film(RenderJob(job_id="a", prompt="x"), spec_of_preset("df-14b-540p"))
    sizes, shape = sizes_of_preset(PRESETS["df-14b-540p"]), GroupShape(cfg=2, ulysses=4)
    alone, shared = segment_work(plan, 0, sizes), segment_work(plan, 0, sizes, shape)
    assert shared.operations == pytest.approx(alone.operations / 8, rel=0.02)
    expected = sum(rank_bytes(step_work(plan, sizes.transformer), shape).values())
    assert shared.sent_bytes / shared.num_steps == pytest.approx(expected)


def test_plans_of_a_film_predict_what_the_bench_does() -> None:
    plan = plan_film(RenderJob(job_id="a", prompt="x"), spec_of_preset("df-14b-720p"))
    sizes = sizes_of_preset(PRESETS["df-14b-720p"])
    work = segment_work(plan, 0, sizes)
    [seconds] = segments_seconds(plan, [segment_token_passes(plan, 0)], "cuda")
    assert seconds == pytest.approx(predicted_step(work, sizes, H100).total_s * work.num_steps, rel=0.03)


def test_blocks_that_are_kept_are_not_computed_again() -> None:
    columns = {"num_frames": 97, "ar_step": 5, "causal_block_size": 5, "block_attention": "causal"}
    plan = plan_film(RenderJob(job_id="a", prompt="x", **columns), spec_of_preset("df-14b-540p"))
    sizes = sizes_of_preset(PRESETS["df-14b-540p"])
    kept, again = (segment_work(plan, 0, sizes, with_cache=keeps) for keeps in (True, False))
    assert kept.num_steps == again.num_steps and kept.operations < 0.9 * again.operations
    assert not predict("h100", "14b-540p", "async", None)["keeps_finished_blocks"], "they take 66 GB"
    assert predict("h200", "14b-540p", "async", None)["keeps_finished_blocks"]


def test_guidance_off_is_half() -> None:
    sizes = sizes_of_preset(PRESETS["df-14b-540p"])
    plans = [
        plan_film(RenderJob(job_id="a", prompt="x", guidance_scale=scale), spec_of_preset("df-14b-540p"))
        for scale in (6.0, 1.0)
    ]
    both, one = (segment_work(plan, 0, sizes).operations for plan in plans)
    assert one == pytest.approx(both / 2, rel=0.02)
    assert replace(H100, name="x").matrix_rate(1536) < H100.matrix_rate(5120)


def test_what_cannot_be_predicted_is_named() -> None:
    with pytest.raises(UsageError, match="'b200' is not one of h100, h200"):
        predict("b200", "14b-540p", "sync", None)
    with pytest.raises(UsageError, match="--shape: 'small'"):
        predict("h100", "small", "sync", None)
    with pytest.raises(UsageError, match="denoises all frames together"):
        predict("h100", "i2v-14b-540p", "async", None)
