"""The architecture of `tiny`: build its parts with random weights, and write a diffusers folder.

    python -m render_farm.tiny.build FOLDER      # a checkpoint with random weights

Shapes: films are 64x64; latents are 16 channels, 1/8 of the side, 1/4 of the frames (+ 1).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing import SkyReelsV2DiffusionForcingPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from render_farm.tiny.captions import vocabulary

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
FLOW_SHIFT = 3.0
"""Shift of the noise levels, in training and in sampling."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of the three networks, as keyword arguments of their configurations."""

    vae: dict[str, Any] = field(
        default_factory=lambda: {
            "base_dim": 8,
            "dim_mult": [1, 2, 4, 5],
            "num_res_blocks": 1,
            "z_dim": 16,
            "latents_mean": [0.0] * 16,
            "latents_std": [1.0] * 16,
        }
    )
    text_encoder: dict[str, Any] = field(
        default_factory=lambda: {
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 2,
            "num_heads": 4,
            "dropout_rate": 0.0,
        }
    )
    transformer: dict[str, Any] = field(
        default_factory=lambda: {
            "num_attention_heads": 4,
            "attention_head_dim": 48,
            "ffn_dim": 576,
            "num_layers": 5,
            "in_channels": 16,
            "out_channels": 16,
            "freq_dim": 128,
            "patch_size": (1, 2, 2),
            "inject_sample_info": True,
        }
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word tokenizer over the caption vocabulary: lower case, no punctuation, `</s>` at the end."""
    words = {word: i for i, word in enumerate([PAD, END, UNKNOWN, *vocabulary()])}
    core = Tokenizer(WordLevel(words, unk_token=UNKNOWN))
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]"), " ")]
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, words[END])])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=512
    )


def build_text_encoder(architecture: Architecture) -> UMT5EncoderModel:
    """Return the text encoder with random weights; its vocabulary is the tokenizer's, rounded up to 8."""
    vocab_size = -(-(len(vocabulary()) + 3) // 8) * 8
    config = UMT5Config(
        vocab_size=vocab_size,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        is_encoder_decoder=False,
        **architecture.text_encoder,
    )
    return UMT5EncoderModel(config)


def build_vae(architecture: Architecture) -> AutoencoderKLWan:
    """Return the video autoencoder with random weights."""
    vae: AutoencoderKLWan = AutoencoderKLWan(**architecture.vae)
    return vae


def build_transformer(architecture: Architecture) -> SkyReelsV2Transformer3DModel:
    """Return the diffusion-forcing transformer with random weights."""
    model: SkyReelsV2Transformer3DModel = SkyReelsV2Transformer3DModel(
        text_dim=architecture.text_encoder["d_model"], **architecture.transformer
    )
    return model


def build_scheduler() -> UniPCMultistepScheduler:
    """Return the sampler's scheduler: flow matching with FLOW_SHIFT."""
    scheduler: UniPCMultistepScheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
    )
    return scheduler


def build_pipeline(architecture: Architecture, seed: int = 0) -> SkyReelsV2DiffusionForcingPipeline:
    """Return the whole pipeline with random weights that depend only on `seed`."""
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "tokenizer": build_tokenizer(),
        "text_encoder": build_text_encoder(architecture),
        "transformer": build_transformer(architecture),
        "vae": build_vae(architecture),
        "scheduler": build_scheduler(),
    }
    return SkyReelsV2DiffusionForcingPipeline(**parts)


def main() -> None:
    """Write a checkpoint with random weights."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    build_pipeline(Architecture(), args.seed).save_pretrained(args.folder, safe_serialization=True)


if __name__ == "__main__":
    main()
