"""Rotary tables equal diffusers'."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2RotaryPosEmbed

from render_farm.engine.transformer.rope import RopeTable, rope_table, rotated


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
    assert torch.allclose(rotated(states, table.cos, table.sin), expected, rtol=tolerance, atol=1e-6)
    part = table.frames(2, 4)
    later = rotated(states[:, 12:24], part.cos, part.sin)
    assert torch.allclose(later, expected[:, 12:24], rtol=tolerance, atol=1e-6)


def test_rope_on_other_devices_has_the_same_formula() -> None:
    """The branch for devices other than the CPU: run on `meta` for its shape, its numbers written out here."""
    table = RopeTable(cos=random(6, 1, 4, seed=1), sin=random(6, 1, 4, seed=2), tokens_per_frame=3)
    states = random(1, 6, 2, 8)
    even, odd = states.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((even * table.cos - odd * table.sin, even * table.sin + odd * table.cos), dim=-1)
    assert torch.allclose(rotated(states, table.cos, table.sin), pairs.flatten(-2), atol=1e-6)
    meta = RopeTable(cos=table.cos.to("meta"), sin=table.sin.to("meta"), tokens_per_frame=3)
    assert rotated(states.to("meta", torch.bfloat16), meta.cos, meta.sin).shape == states.shape
