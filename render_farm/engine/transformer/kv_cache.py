"""Keys and values of finished frames, kept between the passes of one window.

Shapes: B batch, S tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from render_farm.planning.memory import cache_bytes

__all__ = ["KeyValueCache", "Slot", "cache_bytes"]

Slot = tuple[int, ...]
"""(layer, guidance branch), and whose tokens they are where a render group passes keys around."""


@dataclass
class _CachedKeys:
    key: Tensor
    value: Tensor
    num_tokens: int


class KeyValueCache:
    """Keys and values by slot. Every slot is extended by the same tokens in a pass, always at the end.

    `capacity_frames` is how many latent frames will ever be kept (all blocks but the last); each slot takes the memory
    for them as soon as it is first extended.
    """

    def __init__(self, capacity_frames: int) -> None:
        self._capacity_frames = capacity_frames
        self._kept: dict[Slot, _CachedKeys] = {}

    def join(
        self, slot: Slot, key: Tensor, value: Tensor, *, num_stored_frames: int, tokens_per_frame: int
    ) -> tuple[Tensor, Tensor]:
        """Return the kept keys and values followed by `key` and `value` (B S H D), then keep the first
        `num_stored_frames` of the new ones for later passes."""
        kept = self._kept.get(slot)
        if kept is None:
            joined = key, value
        else:
            joined = (
                torch.cat((kept.key[:, : kept.num_tokens], key), dim=1),
                torch.cat((kept.value[:, : kept.num_tokens], value), dim=1),
            )
        if num_stored := num_stored_frames * tokens_per_frame:
            capacity = self._capacity_frames * tokens_per_frame
            self._store(slot, key[:, :num_stored], value[:, :num_stored], capacity)
        return joined

    def _store(self, slot: Slot, key: Tensor, value: Tensor, capacity: int) -> None:
        kept = self._kept.get(slot)
        if kept is None:
            shape = (key.shape[0], capacity, *key.shape[2:])
            kept = self._kept[slot] = _CachedKeys(key=key.new_empty(shape), value=value.new_empty(shape), num_tokens=0)
        end = kept.num_tokens + key.shape[1]
        assert end <= capacity
        kept.key[:, kept.num_tokens : end] = key
        kept.value[:, kept.num_tokens : end] = value
        kept.num_tokens = end

    def state(self) -> dict[str, Tensor]:
        """What is kept, (B S H D) each, by slot and `key` or `value`; their names hold the slot and its capacity."""
        return {
            f"{'.'.join(map(str, slot))}.{kept.key.shape[1]}.{name}": tensor[:, : kept.num_tokens]
            for slot, kept in self._kept.items()
            for name, tensor in (("key", kept.key), ("value", kept.value))
        }

    def restore(self, state: Mapping[str, Tensor], *, like: Tensor) -> None:
        """Keep what `state` gave, on the device of `like`."""
        for name in [name for name in state if name.endswith(".key")]:
            *slot, capacity = (int(part) for part in name.split(".")[:-1])
            self._store(
                tuple(slot),
                state[name].to(like.device),
                state[f"{name.removesuffix('key')}value"].to(like.device),
                capacity,
            )

    @property
    def num_bytes(self) -> int:
        """Memory held, all slots together."""
        return sum(t.numel() * t.element_size() for kept in self._kept.values() for t in (kept.key, kept.value))
