"""The engine's small parts: rotary tables, frame spans, the key/value cache, merged padding, noise."""

from __future__ import annotations

import pytest
import torch

from render_farm.engine.transformer.attention import AttentionCall, BlockCausalAttention, TorchAttention
from render_farm.engine.transformer.context import prompt_tokens
from render_farm.engine.transformer.kv_cache import KeyValueCache
from render_farm.engine.transformer.span import FrameSpan
from tests.helpers.rounding import attention_rounding


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- attention ------------------------------------------------------------------------------------


def test_block_causal_attention_equals_the_dense_mask() -> None:
    tokens_per_frame, num_frames, block = 3, 8, 2
    query, key, value = (random(1, num_frames * tokens_per_frame, 2, 16, seed=i) for i in range(3))
    block_of = torch.arange(num_frames * tokens_per_frame) // (block * tokens_per_frame)
    mask = block_of[None, :] <= block_of[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    ).transpose(1, 2)
    attention, cache = BlockCausalAttention(), KeyValueCache(capacity_frames=4)
    first = FrameSpan(start=0, stop=4, output_start=0, num_stored=4, block_size=block)
    second = FrameSpan(start=4, stop=8, output_start=6, block_size=block)
    outputs = []
    for span, skipped in ((first, 0), (second, 2)):
        tokens = slice(span.start * tokens_per_frame, span.stop * tokens_per_frame)
        queries = slice((span.start + skipped) * tokens_per_frame, tokens.stop)
        outputs.append(
            attention.attend(
                query[:, queries],
                key[:, tokens],
                value[:, tokens],
                AttentionCall(span=span, tokens_per_frame=tokens_per_frame, cache=cache, slot=(0, 0)),
            )
        )
    bound = attention_rounding(query, key, value)
    assert (outputs[0] - expected[:, :12]).abs().max() <= bound
    assert (outputs[1] - expected[:, 18:]).abs().max() <= bound


@pytest.mark.parametrize("num_used", [0, 1, 40, 510, 511, 512])
def test_merged_padding_gives_the_same_attention(num_used: int) -> None:
    embedding = random(1, 512, 16)
    embedding[:, num_used:] = 0
    project = torch.nn.Linear(16, 32)
    query = random(1, 20, 2, 16, seed=1)
    outputs = []
    with torch.no_grad():
        for merge in (True, False):  # the whole padding last: its longer sums are what the bound is for
            tokens = prompt_tokens(embedding, merge_padding=merge)
            key = project(tokens.embedding).unflatten(2, (2, -1))
            outputs.append(TorchAttention().attend(query, key, key + 1, bias=tokens.bias))
    merged = prompt_tokens(embedding, merge_padding=True)
    assert merged.embedding.shape[1] == (num_used + 1 if num_used <= 510 else 512)
    assert (merged.bias is None) == (num_used > 510)
    assert (outputs[0] - outputs[1]).abs().max() <= attention_rounding(query, key, key + 1)
