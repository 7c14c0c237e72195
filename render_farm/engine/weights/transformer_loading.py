"""The transformer from its files without the package accelerate, which diffusers wants for it: some of its modules are
kept in float32. A machine that only measures may not have it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_skyreels_v2 import (
    SkyReelsV2RotaryPosEmbed,
    SkyReelsV2Transformer3DModel,
)
from safetensors.torch import load_file
from torch import Tensor

_WEIGHTS = "diffusion_pytorch_model.safetensors"


def read_transformer(folder: Path, *, dtype: torch.dtype) -> tuple[SkyReelsV2Transformer3DModel, dict[str, list[str]]]:
    """The model of `folder` on the CPU, and `missing_keys` and `mismatched_keys` as `from_pretrained` reports them.

    Raises RuntimeError for shapes that do not fit the configuration, and what opening the files raises.
    """
    with torch.device("meta"):
        model = SkyReelsV2Transformer3DModel.from_config(SkyReelsV2Transformer3DModel.load_config(folder))
    kept = set(model._keep_in_fp32_modules or ())
    state: dict[str, Tensor] = {}
    for name in _files(folder):
        for key, tensor in load_file(folder / name).items():
            state[key] = tensor.to(torch.float32 if kept.intersection(key.split(".")) else dtype)
    missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    restore_positions(model)
    return model, {"missing_keys": list(missing), "mismatched_keys": []}


def restore_positions(model: SkyReelsV2Transformer3DModel) -> None:
    """Compute the rotary frequencies again, in full precision on the CPU: they are in no file."""
    config = model.config
    model.rope = SkyReelsV2RotaryPosEmbed(
        config["attention_head_dim"], config["patch_size"], config["rope_max_seq_len"]
    )


def _files(folder: Path) -> list[str]:
    index = folder / f"{_WEIGHTS}.index.json"
    return sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [_WEIGHTS]
