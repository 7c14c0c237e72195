"""The engine's small parts: rotary tables, frame spans, the key/value cache, merged padding, noise."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2RotaryPosEmbed

from render_farm import RenderJob
from render_farm.engine.denoising.noise import PrefixNoise, window_noise
from render_farm.engine.denoising.rows import window_spans
from render_farm.engine.transformer.attention import AttentionCall, BlockCausalAttention, TorchAttention
from render_farm.engine.transformer.context import prompt_tokens
from render_farm.engine.transformer.kv_cache import KeyValueCache, cache_bytes
from render_farm.engine.transformer.rope import RopeTable, apply_rope, rope_table
from render_farm.engine.transformer.span import FrameSpan
from render_farm.planning import make_schedule, plan_film, spec_of_preset


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- rotary positions -----------------------------------------------------------------------------


def reference_rope(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`apply_rotary_emb` of `SkyReelsV2AttnProcessor`."""
    x1, x2 = states.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(states)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_equals_the_reference(dtype: torch.dtype) -> None:
    module = SkyReelsV2RotaryPosEmbed(24, (1, 2, 2), 64)
    table = rope_table(module, num_frames=5, height=4, width=6, patch=(1, 2, 2))
    states = random(1, 5 * 6, 2, 24).to(dtype)
    expected = reference_rope(states, *module(torch.empty(1, 1, 5, 4, 6)))
    tolerance = 1e-6 if dtype is torch.float32 else 2**-8
    assert torch.allclose(apply_rope(states, table), expected, rtol=tolerance, atol=1e-6)
    assert torch.allclose(
        apply_rope(states[:, 12:24], table.frames(2, 4)), expected[:, 12:24], rtol=tolerance, atol=1e-6
    )


def test_rope_on_other_devices_has_the_same_formula() -> None:
    """The branch for devices other than the CPU: run on `meta` for its shape, its numbers written out here."""
    table = RopeTable(cos=random(6, 1, 4, seed=1), sin=random(6, 1, 4, seed=2), tokens_per_frame=3)
    states = random(1, 6, 2, 8)
    even, odd = states.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((even * table.cos - odd * table.sin, even * table.sin + odd * table.cos), dim=-1)
    assert torch.allclose(apply_rope(states, table), pairs.flatten(-2), atol=1e-6)
    meta = RopeTable(cos=table.cos.to("meta"), sin=table.sin.to("meta"), tokens_per_frame=3)
    assert apply_rope(states.to("meta", torch.bfloat16), meta).shape == states.shape


# --- frame spans ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ar_step", "num_prefix", "caches"), itertools.product([0, 1, 3, 9], [0, 2, 4], [True, False]))
def test_spans_cover_what_moves_and_store_each_frame_once(ar_step: int, num_prefix: int, caches: bool) -> None:
    schedule = make_schedule(
        num_latent_frames=10,
        num_prefix_frames=num_prefix,
        num_inference_steps=4,
        flow_shift=3.0,
        ar_step=ar_step,
        causal_block_size=2,
    )
    cached = 0
    for row, span in enumerate(window_spans(schedule, caches=caches)):
        moving = [block for block, moves in enumerate(schedule.updates[row]) if moves]
        assert span.start == cached
        assert (span.output_start, span.stop) == (moving[0] * 2, moving[-1] * 2 + 2)
        cached += span.num_stored
        # Only blocks at timestep 0 are stored, and all before the moving ones are by then.
        assert all(schedule.timestep_row(row)[block] == 0 for block in range(cached // 2))
        assert cached == (span.output_start if caches else 0)


def test_query_groups() -> None:
    blocks = FrameSpan(start=2, stop=8, output_start=4, num_stored=2, block_size=2)
    assert list(blocks.query_groups(2)) == [(2, 4, 4), (4, 6, 6), (6, 8, 8)]
    assert list(blocks.query_groups(4)) == [(4, 6, 6), (6, 8, 8)]
    everything = FrameSpan(start=0, stop=7, output_start=3)
    assert list(everything.query_groups(3)) == [(3, 7, 7)]


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
    assert torch.allclose(outputs[0], expected[:, :12], atol=1e-6)
    assert torch.allclose(outputs[1], expected[:, 18:], atol=1e-6)


def test_cache_memory_is_what_is_estimated() -> None:
    cache = KeyValueCache(capacity_frames=3)
    slots = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]  # the first layer is shared by both branches
    for slot in slots:
        cache.join(slot, random(1, 4, 2, 8), random(1, 4, 2, 8), num_stored_frames=2, tokens_per_frame=2)
        key, _ = cache.join(slot, random(1, 2, 2, 8), random(1, 2, 2, 8), num_stored_frames=1, tokens_per_frame=2)
        assert key.shape[1] == 6
    assert cache.num_bytes == cache_bytes(
        num_tokens=6, num_layers=3, num_branches=2, num_heads=2, head_dim=8, bytes_per_element=4
    )


@pytest.mark.parametrize("num_used", [0, 1, 40, 510, 511, 512])
def test_merged_padding_gives_the_same_attention(num_used: int) -> None:
    embedding = random(1, 512, 16)
    embedding[:, num_used:] = 0
    project = torch.nn.Linear(16, 32)
    query = random(1, 20, 2, 16, seed=1)
    outputs = []
    with torch.no_grad():
        for merge in (False, True):
            tokens = prompt_tokens(embedding, merge_padding=merge)
            key = project(tokens.embedding).unflatten(2, (2, -1))
            outputs.append(TorchAttention().attend(query, key, key + 1, bias=tokens.bias))
    merged = prompt_tokens(embedding, merge_padding=True)
    assert merged.embedding.shape[1] == (num_used + 1 if num_used <= 510 else 512)
    assert (merged.bias is None) == (num_used > 510)
    assert torch.allclose(*outputs, atol=2e-6)


# --- noise ----------------------------------------------------------------------------------------


def test_each_window_draws_its_whole_span_in_order() -> None:
    job = RenderJob(job_id="a", prompt="x", num_frames=69, base_num_frames=37, overlap_history=17, seed=5)
    plan = plan_film(job, spec_of_preset("tiny"))
    generator = torch.Generator().manual_seed(5)
    for segment, num_latent_frames in enumerate([10, 10, 8]):
        expected = torch.randn((1, 16, num_latent_frames, 8, 8), generator=generator)
        assert torch.equal(window_noise(plan, segment), expected)


def test_prefix_noise_is_a_stream_of_seed_and_segment() -> None:
    def draws(seed: int, segment: int) -> torch.Tensor:
        stream = PrefixNoise(seed=seed, segment=segment)
        return torch.stack([stream.draw((2, 3)), stream.draw((2, 3))])

    assert torch.equal(draws(1, 1), draws(1, 1))
    streams = [draws(1, 1), draws(1, 2), draws(2, 1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(streams, 2))
    assert not torch.equal(*draws(1, 1))
