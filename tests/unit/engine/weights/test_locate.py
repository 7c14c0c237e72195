"""Finding models: every way in, and names that lead nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch

from render_farm.engine import load_engine
from render_farm.engine.weights.fingerprint import fingerprint, model_files
from render_farm.engine.weights.locate import locate_model
from render_farm.errors import (
    ModelError,
)
from render_farm.models import Family
from render_farm.storage import checked_json
from render_farm.storage.pull import SCHEMA
from render_farm.tiny import MODEL_DIR


def test_the_built_in_model_is_found_by_its_name() -> None:
    engine = load_engine("tiny", device="cpu")
    assert engine.spec.name == "tiny"
    assert engine.spec.sample_info
    assert engine.spec.defaults.height == 64
    assert (engine.device, engine.dtype) == (torch.device("cpu"), torch.float32)
    assert engine.checkpoint.folder == MODEL_DIR


def test_a_model_is_found_in_a_folder(model: Path) -> None:
    spec = load_engine(str(model), device="cpu", dtype="bfloat16").spec
    assert spec.name == str(model)
    assert spec.family is Family.DIFFUSION_FORCING
    assert (spec.num_heads, spec.latent_channels, spec.dtype) == (2, 16, "bfloat16")
    assert (spec.temporal_factor, spec.spatial_factor, spec.patch) == (4, 8, 2)
    assert spec.defaults.height == 544, "the defaults of diffusers' call signature"


def test_a_uri_is_copied_once_and_again_when_it_changes(model: Path, tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(model), "/models/small", recursive=True)
    uri, cache = "memory://models/small", tmp_path / "cache"
    first = locate_model(uri, cache_folder=cache)
    assert first.parent == cache
    assert locate_model(uri, cache_folder=cache) == first
    assert fingerprint(first) == fingerprint(model)
    assert [p for p in cache.iterdir() if p.is_dir()] == [first], "no partial copies are left"
    filesystem.pipe_file("/models/small/scheduler/scheduler_config.json", b'{"solver_order": 2}  ')
    assert locate_model(uri, cache_folder=cache) != first
    filesystem.rm("/models", recursive=True)


def test_a_copy_is_checked_against_what_models_pull_has_written(model: Path, tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(model), "/models/summed", recursive=True)
    files = {"model_index.json": {"size": 1, "sha256": "0" * 64}}
    filesystem.pipe_file("/models/summed/checksums.json", checked_json.dump({"files": files}, schema=SCHEMA))
    alive: list[int] = []
    with pytest.raises(ModelError, match=r"model_index.json arrives damaged"):
        locate_model("memory://models/summed", cache_folder=tmp_path / "cache", on_alive=lambda: alive.append(1))
    assert alive, "each block that arrives is a sign of life"
    filesystem.rm("/models", recursive=True)


def test_a_model_that_is_too_large_is_refused_before_it_is_copied(model: Path, tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(model), "/models/large", recursive=True)
    filesystem.pipe_file("/models/large/vae/old.bin", bytes(10_000_000))  # not read, so not counted
    size = sum(path.stat().st_size for path in model_files(model))
    cache = tmp_path / "cache"
    with pytest.raises(ModelError, match=f"{size:,} bytes, more than the {size - 1:,} allowed") as caught:
        locate_model("memory://models/large", cache_folder=cache, max_bytes=size - 1)
    assert "max_model_bytes" in caught.value.advice and not cache.exists()
    assert locate_model("memory://models/large", cache_folder=cache, max_bytes=size).is_dir()
    filesystem.rm("/models", recursive=True)


def test_a_file_that_grows_after_it_was_listed_is_not_copied(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(model), "/models/grows", recursive=True)
    weights = "/models/grows/vae/diffusion_pytorch_model.safetensors"
    listed = filesystem.ls

    def listed_before(path: str, **options: object) -> object:
        found = listed(path, **options)
        return [{**info, "size": 9} if info["name"] == weights else info for info in found]

    monkeypatch.setattr(filesystem, "ls", listed_before)
    with pytest.raises(ModelError, match="cannot be read"):
        locate_model("memory://models/grows", cache_folder=tmp_path, max_bytes=1 << 30)
    assert [path for path in tmp_path.iterdir() if path.is_dir() and path != model] == []
    filesystem.rm("/models", recursive=True)


_HUB = """
import sys
from render_farm.engine.weights.locate import locate_model
from render_farm.engine.weights.transformer_loading import read_transformer
from render_farm.errors import ModelError
for name in sys.argv[1:]:
    try:
        locate_model(name)
    except ModelError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    names = ["df-1.3b-540p", "someone/some-model"]
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": ""}
    root = Path(__file__).parents[4]
    command = [sys.executable, "-c", _HUB, *names]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    messages = done.stdout.splitlines()
    assert len(messages) == 2
    for name, message in zip(names, messages, strict=True):
        assert message.startswith(f"model {name} ")
        assert "the hub cannot be reached" in message
        assert "render-farm models pull" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tinny", "did you mean tiny"),
        ("DF-14B-540P", "did you mean df-14b-540p"),
        ("./nowhere", "neither a preset nor a folder"),
        ("memory://nowhere", "no model_index.json is there"),
        ("nosuch://x/y", "nosuch"),
    ],
)
def test_model_names_that_lead_nowhere_are_refused(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        locate_model(name, cache_folder=tmp_path)
