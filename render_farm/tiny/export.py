"""Turn a training run's averaged weights into a checkpoint in diffusers format."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from render_farm.tiny.build import Architecture, build_pipeline


def export_checkpoint(folder: Path, target: Path) -> None:
    """Write `target`, a diffusers folder, from a run's folder; each file is replaced whole.

    The transformer is kept in float16, half the size: rounding its weights moves a sample less than one grey level.
    """
    pipeline = build_pipeline(Architecture())
    pipeline.vae.load_state_dict(_averaged(folder / "vae.pt"))
    weights = folder / "transformer.pt"
    if weights.exists():
        average = _averaged(weights)
        pipeline.vae.register_to_config(
            latents_mean=average["mean"].flatten().tolist(), latents_std=average["std"].flatten().tolist()
        )
        pipeline.transformer.load_state_dict(_part(average, "transformer."))
        pipeline.text_encoder.load_state_dict(_part(average, "text_encoder."), strict=False)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        pipeline.transformer.half()
        pipeline.save_pretrained(temporary, safe_serialization=True)
        for source in sorted(Path(temporary).rglob("*")):
            if source.is_file():
                destination = target / source.relative_to(temporary)
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copymode(Path(__file__), source)
                source.replace(destination)


def _averaged(path: Path) -> dict[str, Tensor]:
    average: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["average"]
    return average


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
