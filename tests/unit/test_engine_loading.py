"""Finding and checking models: every way in, and every refusal with its way out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from diffusers import SkyReelsV2ImageToVideoPipeline, SkyReelsV2Transformer3DModel

from render_farm import RenderJob
from render_farm.engine import load_engine
from render_farm.engine.device import device_errors
from render_farm.engine.weights.checkpoint import read_checkpoint
from render_farm.engine.weights.fingerprint import FULL_HASH_BYTES, fingerprint
from render_farm.engine.weights.loading import load_image_encoder, load_text_encoder, load_transformer, load_vae
from render_farm.engine.weights.locate import locate_model
from render_farm.engine.weights.resident_transformer import ResidentTransformer
from render_farm.engine.weights.transformer_loading import read_transformer
from render_farm.errors import (
    Cancelled,
    DeviceError,
    InvalidJobError,
    ModelError,
    OutOfMemoryError,
    UsageError,
)
from render_farm.models import Family
from render_farm.tiny import MODEL_DIR
from tests.live_memory import LiveMemory
from tests.parity.reference import build_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    build_pipeline(num_layers=1).save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- ways in --------------------------------------------------------------------------------------


def test_the_built_in_model() -> None:
    engine = load_engine("tiny", device="cpu")
    assert engine.spec.name == "tiny"
    assert engine.spec.sample_info
    assert engine.spec.defaults.height == 64
    assert (engine.device, engine.dtype) == (torch.device("cpu"), torch.float32)
    assert engine.checkpoint.folder == MODEL_DIR


def test_a_folder(model: Path) -> None:
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


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    names = ["df-1.3b-540p", "someone/some-model"]
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": ""}
    root = Path(__file__).parents[2]
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
def test_names_that_lead_nowhere(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        locate_model(name, cache_folder=tmp_path)


# --- refusals -------------------------------------------------------------------------------------


def only_pickles(model: Path) -> None:
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def missing_shard(model: Path) -> None:
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (model / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "text_encoder" / "model.safetensors").rename(model / "text_encoder" / "model-1-of-2.safetensors")


REFUSALS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not a model": (lambda m: (m / "model_index.json").unlink(), "no model_index.json is in"),
    "another pipeline": (lambda m: edit(m / "model_index.json", _class_name="WanPipeline"), "is for WanPipeline"),
    "another VAE": (lambda m: edit(m / "model_index.json", vae=["diffusers", "AutoencoderKL"]), "its vae is Autoe"),
    "no text encoder": (lambda m: edit(m / "model_index.json", text_encoder=[None, None]), "its text_encoder is None"),
    "corrupt JSON": (lambda m: (m / "model_index.json").write_text("{"), "cannot be read"),
    "JSON of another kind": (lambda m: (m / "model_index.json").write_text("[]"), "is not a JSON object"),
    "no configuration": (lambda m: (m / "transformer" / "config.json").unlink(), "config.json is missing"),
    "only pickles": (only_pickles, "only pickled weights"),
    "no weights": (lambda m: shutil.rmtree(m / "vae"), "vae/ has no"),
    "a shard is missing": (missing_shard, "lacks 1 of 2 weight files, first model-2-of-2"),
    "another sampler": (lambda m: edit(m / "scheduler" / "scheduler_config.json", solver_order=3), "solver_order 3"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_before_weights_are_loaded(name: str, model: Path) -> None:
    damage, said = REFUSALS[name]
    damage(model)
    with pytest.raises(ModelError, match=said):
        load_engine(model, device="cpu")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated weights": (
        lambda m: truncate(m / "transformer" / "diffusion_pytorch_model.safetensors"),
        "transformer cannot be loaded",
    ),
    "weights of another shape": (
        lambda m: edit(m / "transformer" / "config.json", ffn_dim=64),
        "transformer (cannot be loaded|lacks)",
    ),
    "weights of fewer layers": (
        lambda m: edit(m / "transformer" / "config.json", num_layers=2),
        "transformer (cannot be loaded|lacks)",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_refused_while_weights_are_loaded(name: str, model: Path) -> None:
    damage, said = DAMAGES[name]
    damage(model)
    engine = load_engine(model, device="cpu")
    with pytest.raises(ModelError, match=said):
        _ = engine.transformer


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    build_pipeline(num_layers=2, cls=SkyReelsV2ImageToVideoPipeline).save_pretrained(folder)
    return folder


def test_every_part_is_loaded_onto_the_device(image_model: Path) -> None:
    """`meta` stands for a GPU."""
    meta, dtype = torch.device("meta"), torch.bfloat16
    parts = [
        load_transformer(image_model, device=meta, dtype=dtype),
        load_vae(image_model, device=meta),
        load_text_encoder(image_model, device=meta, dtype=dtype),
        load_image_encoder(image_model, "CLIPVisionModelWithProjection", device=meta, dtype=dtype),
    ]
    for part in parts:
        assert {tensor.device.type for tensor in (*part.parameters(), *part.buffers())} == {"meta"}
        assert not part.training
    here = load_transformer(image_model, device=torch.device("cpu"), dtype=dtype)
    assert {name: (p.dtype, p.shape) for name, p in here.named_parameters()} == {
        name: (p.dtype, p.shape) for name, p in parts[0].named_parameters()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_accelerate_the_transformer_is_the_same(dtype: torch.dtype, image_model: Path) -> None:
    plain, report = read_transformer(image_model / "transformer", dtype=dtype)
    usual = SkyReelsV2Transformer3DModel.from_pretrained(image_model / "transformer", torch_dtype=dtype)
    assert not report["missing_keys"]
    for (name, ours), (_, theirs) in zip(
        [*plain.named_parameters(), *plain.named_buffers()],
        [*usual.named_parameters(), *usual.named_buffers()],
        strict=True,
    ):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name


def test_weights_go_from_their_file_to_the_device_one_by_one(image_model: Path) -> None:
    """What the host holds beside the mapped file, with every weight cast on its way, is one of them."""
    held = {}
    for dtype in (torch.float32, torch.bfloat16):
        with LiveMemory(device="cpu") as memory:
            denoiser = ResidentTransformer(
                image_model, device=torch.device("meta"), dtype=dtype, prepare=lambda *_: None
            )
            weights = [p.numel() * p.element_size() for p in denoiser.model().parameters()]
        held[dtype] = memory.peak_bytes
    assert held[torch.bfloat16] - held[torch.float32] <= max(weights) < sum(weights) / 8


def test_a_checkpoint_that_does_not_serve_the_task_says_which_do(model: Path) -> None:
    edit(model / "model_index.json", _class_name="SkyReelsV2Pipeline")
    engine = load_engine(model, device="cpu")
    assert engine.spec.family is Family.TEXT_TO_VIDEO
    assert engine.spec.tasks == ("t2v",)
    with pytest.raises(InvalidJobError, match=r"task: i2v is not served by .*; i2v is served by tiny, df-1.3b-540p"):
        engine.plan(RenderJob(job_id="a", prompt="x", image="a.png", num_frames=17, height=32, width=32))


def test_unknown_device_and_dtype() -> None:
    with pytest.raises(UsageError, match="device 'gpu'"):
        load_engine("tiny", device="gpu")
    with pytest.raises(UsageError, match="dtype 'int4' is not one of"):
        load_engine("tiny", device="cpu", dtype="int4")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="finds no CUDA device"):
            load_engine("tiny", device="cuda")


# --- fingerprint ----------------------------------------------------------------------------------


def test_fingerprint_follows_content_not_place(model: Path, saved: Path) -> None:
    first = fingerprint(model)
    assert len(first) == 16
    assert first == fingerprint(saved)
    (model / "README.md").write_text("not read by the engine")
    assert fingerprint(model) == first
    edit(model / "transformer" / "config.json", eps=1e-5)
    second = fingerprint(model)
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert len({first, second, fingerprint(model)}) == 3


def test_large_files_are_sampled(model: Path) -> None:
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    with open(weights, "r+b") as handle:
        handle.truncate(FULL_HASH_BYTES * 2)
    first = fingerprint(model)
    for offset in (100, FULL_HASH_BYTES * 2 - 1):
        with open(weights, "r+b") as handle:
            handle.seek(offset)
            handle.write(b"x")
        second = fingerprint(model)
        assert second != first
        first = second


def test_a_spec_needs_no_weights_in_memory(model: Path) -> None:
    checkpoint = read_checkpoint(model, name="m", dtype="float32")
    assert checkpoint.spec.fingerprint == fingerprint(model)


# --- the device -----------------------------------------------------------------------------------


def test_device_errors_say_whose_fault_it_is() -> None:
    with pytest.raises(OutOfMemoryError, match="segment 1 does not fit"), device_errors("segment 1"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nMore")
    with pytest.raises(OutOfMemoryError, match="segment 1 does not fit"), device_errors("segment 1"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(DeviceError, match="segment 1: the device failed"), device_errors("segment 1"):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(Cancelled), device_errors("segment 1"):
        raise Cancelled("asked to stop")
    with pytest.raises(RuntimeError, match="a bug"), device_errors("segment 1"):
        raise RuntimeError("a bug")
