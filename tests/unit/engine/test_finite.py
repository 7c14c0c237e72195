"""What is not finite leaves the engine as an error, never as a film."""

from __future__ import annotations

import pickle

import pytest
import torch

from render_farm import RenderJob, load_engine
from render_farm.engine import StreamingDecoder
from render_farm.errors import Fault, NotFiniteError

JOB = RenderJob(job_id="a", prompt="a red square", num_frames=9, num_inference_steps=2, guidance_scale=1.0)


@pytest.fixture
def engine():
    return load_engine("tiny", device="cpu", dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_transformer_that_computes_no_numbers(engine, value):
    with torch.no_grad():
        engine.transformer.proj_out.bias[0] = value
    with pytest.raises(NotFiniteError, match=r"segment 0 of job a holds numbers that are not finite.*LoRAs.*dtype"):
        engine.render(JOB)


@pytest.mark.slow
def test_a_decoder_that_computes_no_numbers(engine):
    latents = engine.render(JOB).latents
    with torch.no_grad():
        engine.vae.decoder.conv_out.bias[0] = float("nan")
    with pytest.raises(NotFiniteError, match="a decoded latent frame"):
        list(StreamingDecoder(engine.vae).push(latents))


def test_the_error_crosses_processes_as_the_workers_fault():
    error = pickle.loads(pickle.dumps(NotFiniteError("segment 3 of job a")))
    assert error.fault is Fault.WORKER and str(error) == str(NotFiniteError("segment 3 of job a"))
