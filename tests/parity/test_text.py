"""Prompt embeddings are bit-equal to the pipeline's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from render_farm.engine import Engine, load_engine
from render_farm.errors import UsageError
from tests.helpers.reference import TEXT_DIM, load_pipeline

TEXTS = [
    "",
    "a red ball",
    "  a   red\n ball &amp;amp; a “blue” cube ",
    "unheard of words",
    "a red ball moves left " * 200,
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_equal_the_pipelines(dtype: str, model_folder: Path) -> None:
    engine = load_engine(model_folder, device="cpu", dtype=dtype)
    pipeline = load_pipeline(model_folder, getattr(torch, dtype))
    embeddings = engine.encode_prompts([*TEXTS, *TEXTS])
    assert list(embeddings) == TEXTS
    for text, embedding in embeddings.items():
        with torch.no_grad():  # as the pipeline calls it
            theirs, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=512)
        assert embedding.shape == (512, TEXT_DIM)
        assert torch.equal(embedding, theirs[0]), text


def test_the_encoder_can_be_dropped_and_comes_back(engine: Engine) -> None:
    before = engine.encode_prompts(["a red ball"])["a red ball"]
    engine.drop_text_encoder()
    assert engine._text_encoder is None
    assert torch.equal(engine.encode_prompts(["a red ball"])["a red ball"], before)


def test_an_engine_without_text_encoder_renders_from_embeddings(engine: Engine, model_folder: Path) -> None:
    from tests.helpers.parity_jobs import make_job

    job = make_job(num_frames=17)
    bare = load_engine(model_folder, device="cpu", dtype="float32", with_text_encoder=False)
    plan = bare.plan(job)
    with pytest.raises(UsageError, match="without a text encoder"):
        bare.encode_prompts(plan.texts)
    embeddings: dict[str, Any] = engine.encode_prompts(plan.texts)
    latents = bare.render_segment(plan, 0, history=None, embeddings=embeddings)
    assert torch.equal(latents, engine.render(job).latents)
