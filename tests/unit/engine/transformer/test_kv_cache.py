"""The key/value cache holds what is estimated for it."""

from __future__ import annotations

import torch

from render_farm.engine.transformer.kv_cache import KeyValueCache, cache_bytes


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
