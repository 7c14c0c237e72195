"""`ParallelGroup`: a rank of a render group, as the engine knows it (`engine.group.RenderGroup`)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from render_farm.engine.transformer.attention import SelfAttention
from render_farm.errors import UsageError
from render_farm.parallel.attention import GroupAttention
from render_farm.parallel.first_layer import SharedFirstLayer
from render_farm.parallel.process_group import ProcessGroups
from render_farm.parallel.slices import Slices
from render_farm.parallel.xfuser_modules import xfuser
from render_farm.planning.groups import GroupShape


class ParallelGroup:
    """One rank of the group that `groups` formed.

    A step makes, per layer and branch computed here, the exchanges of `attention`, and one more (`gather`): predictions
    of all tokens and of both guidance branches go to every rank, which then guides and samples alike. With the branches
    on two halves, these also share out the first layer's self-attention, which is the same in both.
    """

    def __init__(self, groups: ProcessGroups) -> None:
        self._groups = groups
        self._shape = groups.seat.shape
        self._cfg_rank, self._sequence_rank = divmod(groups.seat.rank, self._shape.sequence)

    @property
    def shape(self) -> GroupShape:
        return self._shape

    @property
    def rank(self) -> int:
        """Of this process, in all of the group."""
        return self._groups.seat.rank

    @property
    def num_ranks(self) -> int:
        return self._shape.size

    @property
    def ranks(self) -> Any:
        """torch's process group of all ranks."""
        return self._groups.world.device_group

    def limit_exchanges(self, timeout_s: float) -> None:
        """Bound every exchange from now on."""
        self._groups.limit_exchanges(timeout_s)

    @property
    def head_shares(self) -> int:
        return self._shape.ulysses

    def own_branches(self, num_branches: int) -> slice:
        if self._shape.cfg == 1:
            return slice(0, num_branches)
        if num_branches != self._shape.cfg:
            raise UsageError(
                f"a group with cfg {self._shape.cfg} renders {self._shape.cfg} guidance branches, not {num_branches}",
                advice="use cfg 1 where guidance is off",
            )
        return slice(self._cfg_rank, self._cfg_rank + 1)

    def attention(self, alone: SelfAttention, tokens_per_frame: int) -> SelfAttention:
        own = alone
        if self._shape.sequence > 1:
            own = GroupAttention(
                alone,
                self._slices(tokens_per_frame),
                shape=self._shape,
                ring_rank=self._sequence_rank // self._shape.ulysses,
            )
        if self._shape.cfg == 1:
            return own
        pair = xfuser().state.get_cfg_group().device_group
        return SharedFirstLayer(own, shape=self._shape, cfg_rank=self._cfg_rank, pair=pair)

    def shard(self, tokens: Tensor, dim: int) -> Tensor:
        if self._shape.sequence == 1:
            return tokens
        return self._slices(tokens.shape[dim]).take(tokens, self._sequence_rank, dim)

    def gather(self, own: tuple[Tensor, ...], tokens_per_frame: int) -> tuple[Tensor, ...]:
        mine = torch.stack(own)  # branches here, B F N C
        parts: Tensor = self._groups.world.all_gather(mine.unsqueeze(0).contiguous(), dim=0)
        parts = parts.unflatten(0, (self._shape.cfg, self._shape.sequence))  # cfg, rank, branches here, B F N C
        whole = parts.permute(0, 2, 3, 4, 1, 5, 6).flatten(4, 5)[..., :tokens_per_frame, :]
        return tuple(whole.flatten(0, 1).unbind(0))

    def num_own(self, tokens_per_frame: int) -> int:
        return self._slices(tokens_per_frame).num_real(self._sequence_rank, 1)

    def total(self, values: Tensor) -> Tensor:
        if self._shape.sequence == 1:
            return values
        whole = values.clone()
        dist.all_reduce(whole, group=xfuser().state.get_sp_group().device_group)
        return whole

    def all_agree(self, here: bool) -> bool:
        answer = torch.tensor([here], dtype=torch.int32)
        dist.all_reduce(answer, op=dist.ReduceOp.MIN, group=self._groups.world.cpu_group)
        return bool(answer.item())

    def _slices(self, num_tokens: int) -> Slices:
        return Slices(num_tokens=num_tokens, num_ranks=self._shape.sequence)
