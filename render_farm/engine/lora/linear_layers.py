"""The linear layers of a checkpoint's transformer, from its configuration: no weight is read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from torch import nn

from render_farm.engine.lora.layout import LinearShape


def linear_shapes(model: nn.Module) -> dict[str, LinearShape]:
    """Each linear layer of `model` by its name, (out features, in features)."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def linear_shapes_of(folder: Path) -> dict[str, LinearShape]:
    """The same for the model in `folder`, whose configuration has been checked."""
    config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        return linear_shapes(SkyReelsV2Transformer3DModel.from_config(config))
