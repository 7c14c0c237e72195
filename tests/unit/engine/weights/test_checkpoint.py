"""Checkpoints are refused before their weights are loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from render_farm.engine import load_engine
from render_farm.engine.weights.checkpoint import read_checkpoint
from render_farm.engine.weights.fingerprint import fingerprint
from render_farm.errors import (
    ModelError,
)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
    "flags that are a number": (lambda m: edit(m / "vae/config.json", temperal_downsample=5), "temperal_downsample is"),
    "a patch of nothing": (lambda m: edit(m / "transformer/config.json", patch_size=[1, 0, 0]), "patch_size is"),
    "a flat patch": (lambda m: edit(m / "transformer/config.json", patch_size=[2, 2]), "patch_size has 2 numbers"),
    "no size": (lambda m: edit(m / "transformer/config.json", ffn_dim=None), "ffn_dim is 'None', not a number"),
    "heads that plan for hours": (lambda m: edit(m / "transformer/config.json", num_attention_heads=2**31), "1 to 256"),
    "blocks that plan for hours": (lambda m: edit(m / "vae/config.json", num_res_blocks=2**31), "1 to 256"),
    "a class that is a list": (lambda m: edit(m / "model_index.json", _class_name=[]), "renders SkyReels-V2"),
    "a size in letters": (lambda m: edit(m / "transformer/config.json", ffn_dim="x"), "ffn_dim is 'x', not a number"),
    "layers below none": (lambda m: edit(m / "text_encoder/config.json", num_layers=-1), "num_layers is '-1'"),
    "another sampler": (lambda m: edit(m / "scheduler" / "scheduler_config.json", solver_order=3), "solver_order 3"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_before_weights_are_loaded(name: str, model: Path) -> None:
    damage, said = REFUSALS[name]
    damage(model)
    with pytest.raises(ModelError, match=said):
        load_engine(model, device="cpu")


def test_facts_need_no_weights_in_memory(model: Path) -> None:
    checkpoint = read_checkpoint(model, name="m", dtype="float32")
    assert checkpoint.spec.fingerprint == fingerprint(model)
