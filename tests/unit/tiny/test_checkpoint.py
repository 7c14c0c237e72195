"""The checkpoint in the package: complete, small, readable by diffusers; its tokenizer takes anything."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline
from transformers import AutoTokenizer

from render_farm import RenderJob, load_engine
from render_farm.job import LoraRef
from render_farm.tiny import LORA_DIR, MODEL_DIR
from render_farm.tiny.captions import all_scenes, held_out_scenes, vocabulary
from render_farm.tiny.detect import detect


@pytest.fixture(scope="module")
def pipeline() -> SkyReelsV2DiffusionForcingPipeline:
    loaded = SkyReelsV2DiffusionForcingPipeline.from_pretrained(MODEL_DIR)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_files_are_safe_and_at_most_20_mb() -> None:
    files = [path for path in MODEL_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())


def test_the_parts_have_the_promised_sizes(pipeline: SkyReelsV2DiffusionForcingPipeline) -> None:
    assert 2e6 <= count(pipeline.transformer) <= 6e6
    assert 0.5e6 <= count(pipeline.vae) <= 1.5e6
    assert pipeline.vae_scale_factor_temporal == 4
    assert pipeline.vae_scale_factor_spatial == 8
    assert pipeline.transformer.config.inject_sample_info
    assert pipeline.transformer.config.num_attention_heads % 4 == 0
    assert pipeline.scheduler.config.use_flow_sigmas
    assert pipeline.scheduler.config.prediction_type == "flow_prediction"


@pytest.mark.slow
def test_it_renders_a_film_of_two_segments(pipeline: SkyReelsV2DiffusionForcingPipeline) -> None:
    frames = pipeline(
        "a red circle moving right on a black background",
        num_frames=33,
        base_num_frames=17,
        overlap_history=5,
        height=64,
        width=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    ).frames
    assert frames.shape == (1, 33, 64, 64, 3)
    assert (frames >= 0).all()
    assert (frames <= 1).all()


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return AutoTokenizer.from_pretrained(MODEL_DIR / "tokenizer")


def encode(tokenizer: object, text: str) -> tuple[list[int], list[int]]:
    encoded = tokenizer(  # type: ignore[operator]
        [text], padding="max_length", max_length=512, truncation=True, return_attention_mask=True, return_tensors="pt"
    )
    assert encoded.input_ids.shape == (1, 512)
    return encoded.input_ids[0].tolist(), encoded.attention_mask[0].tolist()


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\t", "🙂🙂", "naïve Ünïcode", "x" * 100_000, "word " * 10_000, "\x00\u200b", "</s> <pad>", "赤い円"],
)
def test_any_text_gives_at_least_the_end_token(tokenizer: object, text: str) -> None:
    ids, mask = encode(tokenizer, text)
    length = sum(mask)
    assert length >= 1
    assert ids[length - 1] == 1
    assert mask == [1] * length + [0] * (512 - length)
    assert ids[length:] == [0] * (512 - length)


def test_case_and_punctuation_do_not_matter_and_unknown_words_are_marked(tokenizer: object) -> None:
    assert encode(tokenizer, "A RED, circle!") == encode(tokenizer, "a red circle")
    ids, _ = encode(tokenizer, "a zebra")
    assert ids[:3] == [encode(tokenizer, "a")[0][0], 2, 1]


def test_every_caption_is_known(tokenizer: object) -> None:
    for scene in all_scenes()[::17]:
        ids, mask = encode(tokenizer, scene.caption())
        assert 2 not in ids[: sum(mask)]
    assert len(vocabulary()) == len(set(vocabulary()))


@pytest.mark.slow
def test_with_its_lora_four_steps_without_guidance_give_what_the_prompt_says() -> None:
    engine = load_engine("tiny", device="cpu", dtype="float32")
    for seed, scene in enumerate(held_out_scenes()[::62]):
        loras = (LoraRef(path=str(LORA_DIR / "distilled.safetensors")),)
        job = RenderJob(job_id="a", prompt=scene.caption(), num_frames=97, seed=seed, sampler="distilled", loras=loras)
        film, subject = engine.render(job), scene.subjects[0]
        assert film.plan.job.num_inference_steps == 4
        found = detect(np.stack(list(film.frames)))
        assert (found.colour, found.shape, found.motion) == (subject.colour, subject.shape, subject.motion)
