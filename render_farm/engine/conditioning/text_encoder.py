"""Prompts to embeddings, bit-equal to `SkyReelsV2DiffusionForcingPipeline.encode_prompt`.

Shapes: S = 512 tokens, D channels of the text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from render_farm.errors import UsageError
from render_farm.extras import install_advice

MAX_TOKENS = 512
"""diffusers' `max_sequence_length`: longer prompts are cut, shorter ones padded with zero rows."""


def clean_prompt(text: str) -> str:
    """diffusers' `prompt_clean`: repaired Unicode, HTML entities, single spaces. Needs ftfy."""
    from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing import prompt_clean
    from diffusers.utils import is_ftfy_available

    if not is_ftfy_available():
        raise UsageError("encoding prompts needs the package ftfy", advice=install_advice("ftfy"))
    return str(prompt_clean(text))


@torch.no_grad()
def encode_texts(
    texts: Sequence[str], *, tokenizer: Any, encoder: nn.Module, device: torch.device
) -> dict[str, Tensor]:
    """Each distinct text to its embedding (S D), on the CPU in the encoder's dtype.

    One text per pass, so that an embedding does not depend on what else is encoded.
    """
    return {text: _encode(text, tokenizer, encoder, device) for text in dict.fromkeys(texts)}


def _encode(text: str, tokenizer: Any, encoder: nn.Module, device: torch.device) -> Tensor:
    inputs = tokenizer(
        [clean_prompt(text)],
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    mask = inputs.attention_mask
    states: Tensor = encoder(inputs.input_ids.to(device), mask.to(device)).last_hidden_state[0].cpu()
    states[int(mask.gt(0).sum()) :] = 0
    return states
