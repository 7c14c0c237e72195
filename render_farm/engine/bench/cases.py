"""What can be measured: models and films of known sizes, and an engine for each with random weights.

Speed does not depend on the weights, so nothing is downloaded: they are generated on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel

from render_farm.engine.engine import Engine
from render_farm.engine.options import EngineOptions
from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.engine.weights.checkpoint import Checkpoint
from render_farm.engine.weights.transformer_loading import restore_positions
from render_farm.models import CUSTOM_DEFAULTS, CUSTOM_IMAGE_DEFAULTS, PRESETS, Family
from render_farm.planning import ModelSpec

_BLOCKS = {"ar_step": 5, "causal_block_size": 5}
MODES: dict[str, dict[str, Any]] = {
    "sync": {"ar_step": 0, "causal_block_size": 1},
    "async": {**_BLOCKS, "block_attention": "causal"},
    "full": {**_BLOCKS, "block_attention": "full"},
    "guidance": {"ar_step": 0, "causal_block_size": 1, "cache": "guidance:0.5"},
    "distilled": {"ar_step": 0, "causal_block_size": 1, "sampler": "distilled", "flow_shift": 5.0, "guidance_scale": 1},
}
"""A job's columns by mode, as the model's documentation recommends them."""
APPROXIMATE = ("guidance", "distilled")
"""They stand for a synchronous film and are not equal to it."""


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """A transformer and the film it renders; sizes in pixels and pixel frames."""

    config: dict[str, Any]
    height: int
    width: int
    num_frames: int
    num_block_frames: int
    """With blocks: 121 frames (31 latent ones, the 720P checkpoints' own) do not divide into them."""

    def frames_of(self, mode: str) -> int:
        """Pixel frames of a film of `mode`."""
        return self.num_frames if MODES[mode]["causal_block_size"] == 1 else self.num_block_frames


def _published(preset: str, height: int, width: int, sync_frames: int) -> BenchCase:
    config = {name: value for name, value in PRESETS[preset].transformer_config().items() if name[0] != "_"}
    return BenchCase(config=config, height=height, width=width, num_frames=sync_frames, num_block_frames=97)


SHAPES = {
    "1.3b-540p": _published("df-1.3b-540p", 544, 960, 97),
    "14b-540p": _published("df-14b-540p", 544, 960, 97),
    "14b-720p": _published("df-14b-720p", 720, 1280, 121),
    "small": BenchCase(
        config={
            "num_attention_heads": 4,
            "attention_head_dim": 64,
            "ffn_dim": 1024,
            "num_layers": 4,
            "freq_dim": 256,
            "text_dim": 32,
            "inject_sample_info": True,
        },
        height=256,
        width=256,
        num_frames=97,
        num_block_frames=97,
    ),
}


def random_engine(name: str, *, device: torch.device, dtype: torch.dtype, options: EngineOptions) -> Engine:
    """An engine of shape `name` with random weights; it renders embeddings and has neither text encoder nor VAE."""
    config = SHAPES[name].config
    spec = ModelSpec(
        name=name,
        fingerprint="random",
        family=Family.DIFFUSION_FORCING,
        tasks=("t2v",),
        num_heads=config["num_attention_heads"],
        dtype=str(dtype).removeprefix("torch."),
        defaults=CUSTOM_DEFAULTS,
        image_defaults=CUSTOM_IMAGE_DEFAULTS,
        sample_info=config["inject_sample_info"],
    )
    checkpoint = Checkpoint(folder=Path(), spec=spec)
    engine = Engine(checkpoint, device=device, dtype=dtype, with_text_encoder=False, options=options)
    engine.transformer = random_transformer(config, device=device, dtype=dtype)
    return engine


def random_transformer(config: dict[str, Any], *, device: torch.device, dtype: torch.dtype) -> FrameTransformer:
    """A transformer made on `device` in `dtype`, with the modules that are kept in float32 in float32."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = SkyReelsV2Transformer3DModel(**config)
    finally:
        torch.set_default_dtype(before)
    kept = SkyReelsV2Transformer3DModel._keep_in_fp32_modules or []
    for path, parameter in model.named_parameters():
        if any(part in kept for part in path.split(".")):
            parameter.data = parameter.data.float()
    restore_positions(model)  # they must not be rounded to `dtype`
    model.rope.to(device)
    wrapped: FrameTransformer = FrameTransformer.wrap(model.eval().requires_grad_(False))
    return wrapped
