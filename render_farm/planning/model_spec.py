"""What planning needs to know about a checkpoint, from its configuration files or a preset."""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.models import PRESETS, Defaults, Family
from render_farm.planning.magnitudes import Magnitudes


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A checkpoint, as far as the arithmetic goes."""

    name: str
    """As the job names it: a preset, a folder or a URI."""
    fingerprint: str
    """Identifies the weights; empty when the checkpoint was not read (then there is no stable render key)."""
    family: Family
    tasks: tuple[str, ...]
    num_heads: int
    dtype: str
    """Of the transformer: `float32`, `bfloat16` or `float16`."""
    defaults: Defaults
    image_defaults: Defaults
    video_defaults: Defaults | None = None
    """Of v2v; None: those of t2v."""
    num_frame_per_block: int = 1
    temporal_factor: int = 4
    spatial_factor: int = 8
    patch: int = 2
    latent_channels: int = 16
    sample_info: bool = False
    approximation: str = ""
    """What computes the film with other than the exact formulas; part of the render key."""
    magnitudes: Magnitudes | None = None
    """What `cache: mag` goes by; None where they were not measured."""
    rope_max_len: int = 1024
    """The most latent frames, and patches of a frame's height and width, that it has rotary positions for."""

    @property
    def renders_windows(self) -> bool:
        """Whether it continues from frames it is given; the others render a film in one window, all frames together."""
        return self.family is Family.DIFFUSION_FORCING

    def defaults_for(self, task: str) -> Defaults:
        """The values of the columns that a job of `task` leaves null."""
        if task == "v2v" and self.video_defaults:
            return self.video_defaults
        return self.image_defaults if task in ("i2v", "flf2v") else self.defaults


def spec_of_preset(name: str, *, dtype: str = "bfloat16", fingerprint: str = "") -> ModelSpec:
    """Facts of a preset by its short name, without looking at the checkpoint. Raises KeyError for other names."""
    preset = PRESETS[name]
    return ModelSpec(
        name=name,
        fingerprint=fingerprint,
        family=preset.family,
        tasks=preset.tasks,
        num_heads=preset.num_heads,
        dtype=dtype,
        defaults=preset.defaults,
        image_defaults=preset.image_defaults,
        patch=preset.patch,
        sample_info=preset.sample_info,
    )
