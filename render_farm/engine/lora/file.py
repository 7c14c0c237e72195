"""Write a LoRA in diffusers' format, as `save_lora_weights` of the pipelines does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_lora(path: Path, layers: Mapping[str, tuple[Tensor, Tensor]], *, alpha: float | None = None) -> None:
    """Write `layers` (diffusers' layer name to down (R I) and up (O R)) to `path`, which must end in .safetensors.

    The keys are `transformer.<layer>.lora_A.weight` and `.lora_B.weight`. A layer's output gets alpha / rank * up @
    down added; `alpha` None is each layer's rank, and then nothing of it is written.
    """
    tensors = {}
    for layer, (down, up) in layers.items():
        tensors[f"transformer.{layer}.lora_A.weight"] = down.detach().cpu().contiguous()
        tensors[f"transformer.{layer}.lora_B.weight"] = up.detach().cpu().contiguous()
    metadata = {"format": "pt"}
    if alpha is not None:
        ranks = {layer: down.shape[0] for layer, (down, _) in layers.items()}
        usual = max(set(ranks.values()), key=list(ranks.values()).count)
        config = {
            "r": usual,
            "lora_alpha": alpha,
            "rank_pattern": {layer: rank for layer, rank in ranks.items() if rank != usual},
            "alpha_pattern": {},
            "target_modules": sorted(layers),
        }
        metadata["lora_adapter_metadata"] = json.dumps({f"transformer.{name}": v for name, v in config.items()})
    save_file(tensors, path, metadata=metadata)
