"""Count the bytes of the tensors that are alive; on `meta`, the shapes of full-size models cost nothing."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class LiveMemory(TorchDispatchMode):
    """Within it, `peak_bytes` is the most that storages made by torch's operators held at once.

    Storages that were there before (weights, inputs) are not counted; what a kernel takes for itself is not seen. With
    `device` only those on devices of this type are.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self._device = device
        self.live_bytes = 0
        self.peak_bytes = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(s) for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor) for s in [_storage(t)]}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor, given)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _count(self, tensor: torch.Tensor, given: set[int]) -> None:
        storage = _storage(tensor)
        key = id(storage)
        # A fake tensor's storage is on `meta`, whatever its own device is.
        if key in given or key in self._seen or self._device not in (None, tensor.device.type):
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.live_bytes += size
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live_bytes -= size


def _storage(tensor: torch.Tensor) -> Any:
    return tensor.untyped_storage()
