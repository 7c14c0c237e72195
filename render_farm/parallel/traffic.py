"""Counts the bytes that this process sends to other ranks, at torch's own exchange operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from render_farm.parallel.xfuser_modules import xfuser


class GroupTraffic(TorchDispatchMode):
    """Inside this context, `sent_bytes` grows by what leaves the process: `ulysses`, `ring`, `first_layer`,
    `predictions`, and of decoding `rows`: what goes to the neighbours."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent_bytes: Counter[str] = Counter()
        self.num_exchanges: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func)
        if "all_to_all_single" in name:
            # An even exchange keeps one part at home; the ring's sends everything to one neighbour.
            tensor, size = args[0], xfuser().state.get_ulysses_parallel_world_size()
            group = str(args[-1])
            is_ring = group == xfuser().sequence_groups.RING_PG.group_name
            share = 1.0 if is_ring else (size - 1) / size
            self._add("ring" if is_ring else "ulysses", _bytes(tensor) * share)
        elif "_c10d_functional.all_gather_into_tensor" in name:
            self._add("first_layer", _bytes(args[0]) * (args[1] - 1))
        elif "allgather_base" in name or "all_gather_into_tensor" in name:
            tensor = args[1] if isinstance(args[1], Tensor) else args[0]
            self._add("predictions", _bytes(tensor) * (xfuser().state.get_world_group().world_size - 1))
        elif name.startswith("c10d.send"):
            self._add("rows", sum(map(_bytes, args[0])))
        return func(*args, **(kwargs or {}))

    def _add(self, kind: str, num_bytes: float) -> None:
        self.sent_bytes[kind] += round(num_bytes)
        self.num_exchanges[kind] += 1


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
