"""The sizes of a model's parts from its configuration files, without loading anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from render_farm.errors import ModelError
from render_farm.planning.model_sizes import (
    ImageEncoderSizes,
    ModelSizes,
    TextEncoderSizes,
    TransformerSizes,
    VaeSizes,
)


def read_sizes(folder: Path) -> ModelSizes:
    """The sizes of the model in `folder` (diffusers format). Raises `ModelError` for a configuration that is not there,
    cannot be read or lacks a size."""
    try:
        return ModelSizes(
            transformer=TransformerSizes.from_config(_config(folder, "transformer")),
            vae=VaeSizes.from_config(_config(folder, "vae")),
            text_encoder=TextEncoderSizes.from_config(_config(folder, "text_encoder")),
            image_encoder=ImageEncoderSizes.from_config(_config(folder, "image_encoder"))
            if (folder / "image_encoder").is_dir()
            else None,
        )
    except KeyError as error:
        raise ModelError(f"model {folder}: a config.json has no {error.args[0]}") from error


def _config(folder: Path, component: str) -> dict[str, Any]:
    path = folder / component / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return config
    except (OSError, ValueError) as error:
        raise ModelError(f"model {folder}: {component}/config.json cannot be read: {error}") from error
