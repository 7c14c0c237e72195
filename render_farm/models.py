"""Presets: the nine SkyReels-V2 checkpoints and the built-in `tiny`, with what each is and its defaults per task.

Sizes and defaults are those of the model's documentation and of the published checkpoints' configurations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

CAUSAL, FULL = "causal", "full"
"""How the blocks of `causal_block_size` see each other: each those before it, or all of them."""
DISTILLED = "distilled"
"""The sampler of weights that were distilled to a few steps."""
DIFFUSION_FORCING_TASKS = ("t2v", "i2v", "flf2v", "v2v")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""A repository of the Hugging Face hub, where no folder of that name is there."""


class Family(StrEnum):
    """Which diffusers pipeline a checkpoint is made for."""

    DIFFUSION_FORCING = "diffusion_forcing"
    TEXT_TO_VIDEO = "text_to_video"
    IMAGE_TO_VIDEO = "image_to_video"


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Values of the columns that a job leaves null."""

    num_frames: int = 97
    height: int = 544
    width: int = 960
    fps: int = 24
    num_inference_steps: int = 50
    guidance_scale: float = 6.0
    flow_shift: float = 8.0
    base_num_frames: int = 97
    overlap_history: int = 17
    addnoise_condition: float = 0.0
    ar_step: int = 0
    causal_block_size: int | None = None
    """None means the checkpoint's own `num_frame_per_block`."""
    block_attention: str = CAUSAL
    negative_prompt: str = ""
    sampler: str = "reference"
    prefix_noise: str = "per_step"


DISTILLED_DEFAULTS: dict[str, Any] = {
    "step_list": (1000, 750, 500, 250),
    "guidance_scale": 1.0,
    "flow_shift": 5.0,
}
"""Take the place of a model's where a job asks for the sampler: the values that weights are distilled with."""
IMAGE_DEFAULTS = Defaults(flow_shift=5.0, guidance_scale=5.0)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One checkpoint by its short name."""

    name: str
    hub_id: str | None
    """None: it lies in this package."""
    family: Family
    tasks: tuple[str, ...]
    num_parameters: int
    """Of the transformer."""
    num_heads: int
    num_layers: int
    ffn_dim: int
    head_dim: int = 128
    patch: int = 2
    """Side of the square of latents that is one token."""
    text_dim: int = 4096
    freq_dim: int = 256
    in_channels: int = 16
    """16 of latents; 36 with the 4 of the mask and the 16 of the images' latents."""
    image_dim: int | None = None
    """Channels of the image encoder, for checkpoints that have one."""
    pos_embed_seq_len: int | None = None
    """Tokens of two images together, for checkpoints that know the first from the last."""
    sample_info: bool = False
    """Whether it knows 16 frames a second from others."""
    defaults: Defaults = field(default_factory=Defaults)
    image_defaults: Defaults = IMAGE_DEFAULTS

    def transformer_config(self) -> dict[str, Any]:
        """The transformer's `config.json`, in diffusers' format."""
        width = self.num_heads * self.head_dim
        return {
            "_class_name": "SkyReelsV2Transformer3DModel",
            "patch_size": [1, self.patch, self.patch],
            "num_attention_heads": self.num_heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.in_channels,
            "out_channels": 16,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "ffn_dim": self.ffn_dim,
            "num_layers": self.num_layers,
            "image_dim": self.image_dim,
            "added_kv_proj_dim": width if self.image_dim else None,
            "rope_max_seq_len": 1024,
            "pos_embed_seq_len": self.pos_embed_seq_len,
            "inject_sample_info": self.sample_info,
            "num_frame_per_block": 1,
        }

    def defaults_for(self, task: str) -> Defaults:
        """The defaults of `task`: image tasks have a shift and guidance of their own."""
        return self.image_defaults if task in ("i2v", "flf2v") else self.defaults


CUSTOM_DEFAULTS = Defaults()
"""For a folder or URI: the defaults of diffusers' call signature, with the shift of its documentation."""
CUSTOM_IMAGE_DEFAULTS = replace(CUSTOM_DEFAULTS, flow_shift=5.0, guidance_scale=5.0)
CUSTOM_VIDEO_DEFAULTS = replace(CUSTOM_DEFAULTS, num_frames=121)

_PIPELINES: dict[str, tuple[Family, tuple[str, ...], int]] = {
    # name on the hub -> family, tasks, input channels
    "DF": (Family.DIFFUSION_FORCING, DIFFUSION_FORCING_TASKS, 16),
    "T2V": (Family.TEXT_TO_VIDEO, ("t2v",), 16),
    "I2V": (Family.IMAGE_TO_VIDEO, ("i2v",), 36),
    "FLF2V": (Family.IMAGE_TO_VIDEO, ("flf2v",), 36),
}


def _checkpoint(kind: str, size: str, resolution: str, num_parameters: int, *, sample_info: bool = False) -> Preset:
    small = size == "1.3B"
    height, width, num_frames = (544, 960, 97) if resolution == "540P" else (720, 1280, 121)
    family, tasks, in_channels = _PIPELINES[kind]
    defaults = Defaults(
        height=height,
        width=width,
        num_frames=num_frames,
        base_num_frames=num_frames,
        # Their makers: "the released models do not support causal attention".
        block_attention=FULL if family is Family.DIFFUSION_FORCING else CAUSAL,
    )
    return Preset(
        name=f"{kind}-{size}-{resolution}".lower(),
        hub_id=f"Skywork/SkyReels-V2-{kind}-{size}-{resolution}-Diffusers",
        family=family,
        tasks=tasks,
        num_parameters=num_parameters,
        num_heads=12 if small else 40,
        num_layers=30 if small else 40,
        ffn_dim=8960 if small else 13824,
        in_channels=in_channels,
        image_dim=1280 if family is Family.IMAGE_TO_VIDEO else None,
        pos_embed_seq_len=2 * 257 if kind == "FLF2V" else None,
        sample_info=sample_info,
        defaults=defaults,
        image_defaults=replace(defaults, flow_shift=5.0, guidance_scale=5.0),
    )


_TINY_DEFAULTS = Defaults(height=64, width=64, num_inference_steps=16, guidance_scale=1.5, flow_shift=3.0)

TINY = Preset(
    name="tiny",
    hub_id=None,
    family=Family.DIFFUSION_FORCING,
    tasks=DIFFUSION_FORCING_TASKS,
    num_parameters=3_222_208,
    num_heads=4,
    num_layers=5,
    ffn_dim=576,
    head_dim=48,
    patch=2,
    text_dim=64,
    freq_dim=128,
    sample_info=True,
    defaults=_TINY_DEFAULTS,
    image_defaults=_TINY_DEFAULTS,
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        TINY,
        _checkpoint("DF", "1.3B", "540P", 1_435_525_696, sample_info=True),
        _checkpoint("DF", "14B", "540P", 14_288_491_584),
        _checkpoint("DF", "14B", "720P", 14_288_491_584),
        _checkpoint("T2V", "14B", "540P", 14_288_491_584),
        _checkpoint("T2V", "14B", "720P", 14_288_491_584),
        _checkpoint("I2V", "1.3B", "540P", 1_564_428_608),
        _checkpoint("I2V", "14B", "540P", 16_394_878_784),
        _checkpoint("I2V", "14B", "720P", 16_394_878_784),
        _checkpoint("FLF2V", "1.3B", "540P", 1_565_086_528),
    )
}


def defaults_for(model: str, task: str) -> Defaults:
    """The defaults of a preset's name, or those of a custom folder for anything else."""
    preset = PRESETS.get(model)
    if preset:
        return preset.defaults_for(task)
    return {"i2v": CUSTOM_IMAGE_DEFAULTS, "flf2v": CUSTOM_IMAGE_DEFAULTS, "v2v": CUSTOM_VIDEO_DEFAULTS}.get(
        task, CUSTOM_DEFAULTS
    )
