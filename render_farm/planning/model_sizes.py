"""The sizes of a model's parts, from a preset or from configuration files, and how many parameters follow from them.

The counts are those of the classes in diffusers and transformers (`SkyReelsV2Transformer3DModel`, `AutoencoderKLWan`,
`UMT5EncoderModel`, `CLIPVisionModel`), taken layer by layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from render_farm.models import Preset


@dataclass(frozen=True, kw_only=True)
class TransformerSizes:
    """A `SkyReelsV2Transformer3DModel`."""

    num_heads: int
    head_dim: int = 128
    num_layers: int
    ffn_dim: int
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)
    cross_attn_norm: bool = True
    sample_info: bool = False
    image_dim: int | None = None
    """Channels of the image encoder's states; None: the model takes none."""
    added_kv_dim: int | None = None
    pos_embed_len: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TransformerSizes:
        """From a `transformer/config.json`. Raises KeyError for a size that it lacks."""
        return cls(
            num_heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            num_layers=config["num_layers"],
            ffn_dim=config["ffn_dim"],
            in_channels=config["in_channels"],
            out_channels=config.get("out_channels") or config["in_channels"],
            text_dim=config.get("text_dim", 4096),
            freq_dim=config.get("freq_dim", 256),
            patch=tuple(config.get("patch_size", (1, 2, 2))),
            cross_attn_norm=config.get("cross_attn_norm", True),
            sample_info=config.get("inject_sample_info", False),
            image_dim=config.get("image_dim"),
            added_kv_dim=config.get("added_kv_proj_dim"),
            pos_embed_len=config.get("pos_embed_seq_len"),
        )

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return self.num_heads * self.head_dim

    @property
    def num_layer_parameters(self) -> int:
        """Of one layer, those kept in float32 included."""
        dim = self.dim
        attention = 4 * _linear(dim, dim) + 2 * dim
        added = 2 * _linear(self.added_kv_dim, dim) + dim if self.added_kv_dim else 0
        feed_forward = _linear(dim, self.ffn_dim) + _linear(self.ffn_dim, dim)
        return 2 * attention + added + feed_forward + self._num_layer_float32_parameters

    @property
    def num_parameters(self) -> int:
        """Of the whole transformer."""
        dim, pixels = self.dim, prod(self.patch)
        total = _linear(self.in_channels * pixels, dim) + _linear(dim, self.out_channels * pixels) + 2 * dim
        total += self._num_time_parameters + _linear(dim, 6 * dim) + _linear(self.text_dim, dim) + _linear(dim, dim)
        if self.image_dim:
            total += 2 * self.image_dim + _linear(self.image_dim, self.image_dim) + _linear(self.image_dim, dim)
            total += 2 * dim + (self.pos_embed_len or 0) * self.image_dim
        if self.sample_info:
            total += 2 * dim + _linear(dim, dim) + _linear(dim, 6 * dim)
        return total + self.num_layers * self.num_layer_parameters

    @property
    def num_float32_parameters(self) -> int:
        """Those that stay float32 in every dtype (`_keep_in_fp32_modules`)."""
        image = 2 * (self.image_dim + self.dim) if self.image_dim else 0
        return self._num_time_parameters + image + 2 * self.dim + self.num_layers * self._num_layer_float32_parameters

    @property
    def _num_time_parameters(self) -> int:
        return _linear(self.freq_dim, self.dim) + _linear(self.dim, self.dim)

    @property
    def _num_layer_float32_parameters(self) -> int:
        return (8 if self.cross_attn_norm else 6) * self.dim


@dataclass(frozen=True, kw_only=True)
class VaeSizes:
    """An `AutoencoderKLWan` (of Wan 2.1: no residual up-sampling, no patches)."""

    base_dim: int = 96
    decoder_base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VaeSizes:
        """From a `vae/config.json`."""
        base = config.get("base_dim", cls.base_dim)
        return cls(
            base_dim=base,
            decoder_base_dim=config.get("decoder_base_dim") or base,
            z_dim=config.get("z_dim", cls.z_dim),
            dim_mult=tuple(config.get("dim_mult", cls.dim_mult)),
            num_res_blocks=config.get("num_res_blocks", cls.num_res_blocks),
            temporal_downsample=tuple(config.get("temperal_downsample", cls.temporal_downsample)),
        )

    @property
    def num_parameters(self) -> int:
        """Of encoder, decoder and the two 1x1 convolutions between."""
        return (
            self._num_encoder_parameters
            + self._num_decoder_parameters
            + _conv(2 * self.z_dim, 2 * self.z_dim, 1)
            + (_conv(self.z_dim, self.z_dim, 1))
        )

    @property
    def _num_encoder_parameters(self) -> int:
        dims = [self.base_dim * factor for factor in (1, *self.dim_mult)]
        total = _conv(3, dims[0], 27) + _conv(dims[-1], 2 * self.z_dim, 27) + dims[-1] + _middle(dims[-1])
        for level, (below, dim) in enumerate(itertools.pairwise(dims)):
            total += sum(_residual(below if block == 0 else dim, dim) for block in range(self.num_res_blocks))
            if level < len(self.temporal_downsample):
                total += _conv(dim, dim, 9) + (_conv(dim, dim, 3) if self.temporal_downsample[level] else 0)
        return total

    @property
    def _num_decoder_parameters(self) -> int:
        dims = [self.decoder_base_dim * factor for factor in (self.dim_mult[-1], *reversed(self.dim_mult))]
        total = _conv(self.z_dim, dims[0], 27) + _conv(dims[-1], 3, 27) + dims[-1] + _middle(dims[0])
        for level, (above, dim) in enumerate(itertools.pairwise(dims)):
            first = above // 2 if level else above
            total += sum(_residual(first if block == 0 else dim, dim) for block in range(self.num_res_blocks + 1))
            if level < len(self.temporal_downsample):
                total += _conv(dim, dim // 2, 9)
                total += _conv(dim, 2 * dim, 3) if self.temporal_downsample[-1 - level] else 0
        return total


@dataclass(frozen=True, kw_only=True)
class TextEncoderSizes:
    """A `UMT5EncoderModel`; the defaults are UMT5-XXL."""

    vocab_size: int = 256384
    dim: int = 4096
    head_dim: int = 64
    num_heads: int = 64
    ffn_dim: int = 10240
    num_layers: int = 24
    num_buckets: int = 32

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TextEncoderSizes:
        """From a `text_encoder/config.json`. Raises KeyError for a size that it lacks."""
        return cls(
            vocab_size=config["vocab_size"],
            dim=config["d_model"],
            head_dim=config["d_kv"],
            num_heads=config["num_heads"],
            ffn_dim=config["d_ff"],
            num_layers=config["num_layers"],
            num_buckets=config.get("relative_attention_num_buckets", cls.num_buckets),
        )

    @property
    def num_parameters(self) -> int:
        """With the embedding of the vocabulary."""
        attention = 4 * self.dim * self.num_heads * self.head_dim + self.num_buckets * self.num_heads
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        return self.vocab_size * self.dim + self.num_layers * layer + self.dim


@dataclass(frozen=True, kw_only=True)
class ImageEncoderSizes:
    """A `CLIPVisionModel`; the defaults are ViT-H/14."""

    dim: int = 1280
    ffn_dim: int = 5120
    num_layers: int = 32
    image_size: int = 224
    patch: int = 14

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageEncoderSizes:
        """From an `image_encoder/config.json`. Raises KeyError for a size that it lacks."""
        return cls(
            dim=config["hidden_size"],
            ffn_dim=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            image_size=config["image_size"],
            patch=config["patch_size"],
        )

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch) ** 2 + 1

    @property
    def num_parameters(self) -> int:
        """Of the vision tower."""
        layer = 4 * _linear(self.dim, self.dim) + 4 * self.dim
        layer += _linear(self.dim, self.ffn_dim) + _linear(self.ffn_dim, self.dim)
        return 3 * self.patch**2 * self.dim + self.dim + (self.num_tokens + 4) * self.dim + self.num_layers * layer

    @property
    def num_states(self) -> int:
        """Values that are alive in its last layer, of one picture: what every layer was given and gave, one normed, and
        the wide states of the feed-forward with what its activation makes of them."""
        return self.num_tokens * ((self.num_layers + 2) * self.dim + 3 * self.ffn_dim)


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """All parts of a model."""

    transformer: TransformerSizes
    vae: VaeSizes = VaeSizes()
    text_encoder: TextEncoderSizes = TextEncoderSizes()
    image_encoder: ImageEncoderSizes | None = None


def sizes_of_preset(preset: Preset) -> ModelSizes:
    """The sizes of a published checkpoint (for `tiny`, read its files)."""
    assert preset.hub_id is not None, "the built-in model's sizes are in its files"
    transformer = TransformerSizes.from_config(preset.transformer_config())
    return ModelSizes(transformer=transformer, image_encoder=ImageEncoderSizes() if preset.image_dim else None)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel + outputs


def _residual(inputs: int, outputs: int) -> int:
    shortcut = _conv(inputs, outputs, 1) if inputs != outputs else 0
    return inputs + _conv(inputs, outputs, 27) + outputs + _conv(outputs, outputs, 27) + shortcut


def _middle(dim: int) -> int:
    return 2 * _residual(dim, dim) + dim + _conv(dim, 3 * dim, 1) + _conv(dim, dim, 1)
