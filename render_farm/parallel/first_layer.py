"""The first layer's self-attention where the guidance branches are on the two halves of a group.

Up to there nothing has seen a prompt: both branches have the same hidden states, and one rank that computes both
attends once. Two halves would each do it all; instead each takes half of the heads and gets the rest from the other.

Shapes: B batch, S tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed._functional_collectives import all_gather_tensor

from render_farm.engine.transformer.attention import AttentionCall, SelfAttention
from render_farm.planning.groups import GroupShape


class SharedFirstLayer:
    """`SelfAttention` of a rank in one of two halves; `own` is that of the half."""

    def __init__(self, own: SelfAttention, *, shape: GroupShape, cfg_rank: int, pair: Any) -> None:
        """`pair` is torch's process group of this rank and that with the same tokens in the other half."""
        self._own = own
        self._shape = shape
        self._cfg_rank = cfg_rank
        self._pair = pair

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        is_shared = call.slot[0] == 0 and self._shape.shares_first_layer(query.shape[2])
        if is_shared:
            half = query.shape[2] // 2
            query, key, value = (
                tensor.narrow(2, self._cfg_rank * half, half).contiguous() for tensor in (query, key, value)
            )
        out = self._own.attend(query, key, value, call)
        return all_gather_tensor(out.contiguous(), gather_dim=2, group=self._pair) if is_shared else out
