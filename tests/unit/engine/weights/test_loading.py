"""Finding and checking models: every way in, and every refusal with its way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SkyReelsV2ImageToVideoPipeline, SkyReelsV2Transformer3DModel

from render_farm import RenderJob
from render_farm.engine import load_engine
from render_farm.engine.weights.loading import (
    load_image_encoder,
    load_image_processor,
    load_text_encoder,
    load_tokenizer,
    load_transformer,
    load_vae,
)
from render_farm.engine.weights.resident_transformer import ResidentTransformer
from render_farm.engine.weights.transformer_loading import read_transformer
from render_farm.errors import (
    InvalidJobError,
    ModelError,
)
from render_farm.models import Family
from render_farm.tiny import MODEL_DIR
from tests.helpers.live_memory import LiveMemory
from tests.helpers.reference import build_pipeline


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- refusals -------------------------------------------------------------------------------------


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("component", "file", "auto_class", "load"),
    [
        ("tokenizer", "tokenizer_config.json", "AutoTokenizer", load_tokenizer),
        ("image_processor", "preprocessor_config.json", "AutoImageProcessor", load_image_processor),
    ],
)
def test_code_of_a_model_s_folder_is_never_run_nor_asked_for(
    component: str,
    file: str,
    auto_class: str,
    load: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, mark = tmp_path / component, tmp_path / "was_run"
    folder.mkdir()
    classes = {"AutoTokenizer": ["planted.Planted", None], "AutoImageProcessor": "planted.Planted"}
    (folder / file).write_text(json.dumps({"auto_map": {auto_class: classes[auto_class]}}))
    (folder / "config.json").write_text(json.dumps({"auto_map": {auto_class: classes[auto_class]}}))
    (folder / "planted.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Planted:\n    pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("load", [partial(load_transformer, dtype=torch.float32), load_vae])
def test_weights_that_are_loaded_while_a_segment_is_rendered_can_be_used_outside(load: Callable[..., Any]) -> None:
    with torch.inference_mode():
        model = load(MODEL_DIR, device=torch.device("cpu"))
    assert not any(parameter.is_inference() for parameter in model.parameters())
