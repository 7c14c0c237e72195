"""`render-farm verify`: it passes where the engine is right, and fails where something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SkyReelsV2ImageToVideoPipeline, SkyReelsV2Pipeline
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.engine.verify.compare import compare
from render_farm.engine.verify.films import films
from render_farm.engine.verify.run import VerifyRequest, VerifyResult, check_request, run_verify
from render_farm.errors import UsageError
from render_farm.planning import plan_film, spec_of_preset
from render_farm.tiny import MODEL_DIR
from tests.helpers.reference import build_pipeline

QUICK: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 2, "device": "cpu", "dtype": "float32"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def against_diffusers() -> VerifyResult:
    return run_verify(VerifyRequest(model="tiny", against=True, **QUICK))


@pytest.mark.long
@pytest.mark.slow
def test_the_built_in_model_passes(against_diffusers: VerifyResult) -> None:
    assert [film.name for film in against_diffusers.films] == [
        "t2v sync, 1 segment",
        "t2v sync, 2 segments",
        "t2v async, 1 segment",
        "t2v async, 2 segments",
        "t2v full, 1 segment",
        "t2v full, 2 segments",
        "i2v sync, 1 segment",
        "i2v sync, 2 segments",
        "flf2v sync, 1 segment",
        "flf2v sync, 2 segments",
        "v2v sync, 1 segment",
    ]
    assert against_diffusers.num_failed == 0
    for film in against_diffusers.films:
        assert film.seconds > 0
        assert film.peak_bytes is not None and film.peak_bytes > 0
        if film.name == "flf2v sync, 2 segments":
            assert film.difference is None
            assert "diffusers fails" in film.note
        else:
            assert film.difference is not None
            assert film.difference.largest <= 1e-4
            assert film.difference.largest_level <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "cls", "transformer"),
    [
        ("t2v", SkyReelsV2Pipeline, {}),
        ("i2v", SkyReelsV2ImageToVideoPipeline, {}),
        ("flf2v", SkyReelsV2ImageToVideoPipeline, {"pos_embed_seq_len": 34}),
    ],
)
def test_a_checkpoint_without_diffusion_forcing_passes(task: str, cls: type, transformer: dict, tmp_path: Path) -> None:
    build_pipeline(sample_info=False, num_layers=1, cls=cls, **transformer).save_pretrained(tmp_path)
    result = run_verify(VerifyRequest(model=str(tmp_path), against=True, **QUICK))
    (film,) = result.films
    assert film.name == f"{task} sync, 1 segment"
    assert film.passed and film.difference is not None
    assert film.difference.largest <= 1e-4


@pytest.mark.slow
def test_a_model_whose_weights_differ_by_one_percent_in_one_matrix_fails(tmp_path: Path) -> None:
    """diffusers is given the model with one matrix of one layer one percent larger."""
    damaged = Path(shutil.copytree(MODEL_DIR, tmp_path / "model"))
    path = damaged / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["blocks.0.ffn.net.2.weight"] *= 1.01
    save_file(weights, path, metadata={"format": "pt"})
    result = run_verify(VerifyRequest(model="tiny", against=True, reference=damaged, tasks=("t2v",), **QUICK))
    compared = [film for film in result.films if film.difference]
    assert not any(film.passed for film in compared)
    assert result.num_failed == len(compared) == 6


def test_compare_accepts_rounding_and_refuses_anything_larger() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, 16, 3, 4, 4), generator=generator)
    frames = np.zeros((9, 32, 32, 3), dtype=np.uint8)
    cpu = {"device_type": "cpu", "dtype": "float32"}
    assert compare(latents, latents + 9e-5, frames, frames + 1, **cpu).passed
    assert not compare(latents, latents + 2e-4, frames, frames, **cpu).passed
    assert not compare(latents, latents, frames, frames + 2, **cpu).passed
    assert compare(latents, latents * 1.05, frames, frames + 2, device_type="cuda", dtype="bfloat16").passed
    assert not compare(latents, latents.roll(1), frames, frames, device_type="cuda", dtype="bfloat16").passed
    assert not compare(latents, latents * float("nan"), frames, frames, device_type="cuda", dtype="bfloat16").passed
    assert not compare(latents, latents[:, :, :2], frames, frames, **cpu).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["df-14b-720p", "t2v-14b-540p", "i2v-14b-720p", "flf2v-1.3b-540p"])
@pytest.mark.parametrize("num_frames", [37, 97])
def test_the_films_of_the_published_checkpoints_can_be_rendered(name: str, num_frames: int) -> None:
    spec = spec_of_preset(name)
    chosen = list(films(spec, tasks=spec.tasks, num_frames=num_frames, num_inference_steps=8, height=544, width=960))
    assert {plan_film(film.job, spec).job.task for film in chosen} == set(spec.tasks)
    segments = [plan_film(film.job, spec).num_segments for film in chosen]
    assert max(segments) == (2 if spec.renders_windows else 1)


def test_verify_requests_that_cannot_work_are_refused(tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["verify", str(tmp_path / "none")])
    assert missing.exit_code == 2 and "is neither a preset nor a folder that exists" in missing.stderr
    with pytest.raises(UsageError, match="use 37, 57"):
        check_request(VerifyRequest(model="tiny", num_frames=40))
    with pytest.raises(UsageError, match="--against diffusers"):
        check_request(VerifyRequest(model="tiny", reference=Path("x")))


@pytest.mark.slow
def test_the_verify_command_prints_one_object_and_passes() -> None:
    command = ["verify", "tiny", "--device", "cpu", "--json", "--task", "v2v", "--height", "32", "--width", "32"]
    done = CliRunner().invoke(app, [*command, "--steps", "1"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["passed"]
    assert document["against"] == ""
    assert [film["name"] for film in document["films"]] == ["v2v sync, 1 segment"]
