"""Self-attention of a render group: Ulysses, and through xfuser's `USP` ring, and both.

Ulysses: exchanges give each rank all tokens of its own heads. There the attention of one rank runs as it is, with its
causal blocks and its cache of these heads. Another exchange gives the tokens back. Its own code, because `USP` copies
each tensor about four times, which takes as long as the exchange. Here a tensor is copied once before it is sent and
once after it has arrived, and half of what is sent can be on its way while the other half is attended to.

Ring: each rank keeps its tokens, and keys and values go round; what a rank attends to in each step is joined by
log-sum-exp. Every rank holds the same slice of every frame, so causal blocks, blocks left out and blocks that are
cached weigh the same on each. Keys and values of finished blocks are kept as they come round, and not sent again.

`USP` gives neither blocks nor a cache; both are in the attention function that it calls, registered here.

Shapes: B batch, S tokens, H heads, D channels of a head; U ranks share heads, R ranks are in the ring.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor, all_to_all_single

from render_farm.engine.transformer.attention import (
    AttentionCall,
    BlockCausalAttention,
    LogSumExpBackend,
    SelfAttention,
)
from render_farm.errors import UsageError
from render_farm.parallel.log_sum_exp import require_log_sum_exp
from render_farm.parallel.slices import Slices, from_frames, to_frames
from render_farm.parallel.xfuser_modules import xfuser
from render_farm.planning.groups import GroupShape

_BACKEND = "render_farm"
"""The name under which xfuser finds `_attend`."""


class GroupAttention:
    """`SelfAttention` of one rank whose tokens are slices of frames (`Slices`)."""

    def __init__(self, alone: SelfAttention, slices: Slices, *, shape: GroupShape, ring_rank: int) -> None:
        """`alone` attends on one rank. Raises `UsageError` when a ring is asked of one that cannot be used in parts."""
        if shape.ring > 1 and not isinstance(alone, BlockCausalAttention):
            raise UsageError(f"self-attention {type(alone).__name__} cannot be used in a ring", advice="use ring 1")
        self._alone = alone
        self._slices = slices
        self._shape = shape
        self._ring_rank = ring_rank
        xfuser().backends.ATTENTION_FUNCTION_REGISTRY[_BACKEND] = _attend

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        assert call.tokens_per_frame == self._slices.width
        if self._shape.ring == 1:
            return self._by_heads(query, key, value, call)
        assert isinstance(self._alone, BlockCausalAttention)
        kernel: Any = self._alone.backend
        backend = require_log_sum_exp(kernel, device=query.device, dtype=query.dtype, head_dim=query.shape[-1])
        exchange = _Exchange(slices=self._slices, ulysses=self._shape.ulysses, call=call)
        inner = _RingCall(backend=backend, exchange=exchange, ring=self._shape.ring, ring_rank=self._ring_rank)
        out: Tensor = xfuser().usp.USP(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            combine_qkv_a2a=True,
            backend=_BACKEND,
            attention_kwargs={_BACKEND: inner},
        )
        return out.transpose(1, 2)

    def _by_heads(self, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        """Half of a rank's heads attend while the other half's tokens, or the first half's results, are on their way.
        A head sees no other one, so the result is that of all heads at once, on a CPU bit for bit."""
        ranks, num_queries = self._shape.ulysses, query.shape[1]
        exchange = _Exchange(slices=self._slices, ulysses=ranks, call=call)
        by_rank = [tokens.unflatten(2, (ranks, -1)) for tokens in (query, key, value)]  # B S P h D
        result = torch.empty_like(by_rank[0])
        size = -(-result.shape[3] // 2)
        coming = [
            [_sent(tokens.permute(2, 0, 1, 3, 4)) for tokens in half]
            for half in zip(*(tokens.split(size, dim=3) for tokens in by_rank), strict=True)
        ]
        del by_rank
        going = []
        for half in range(len(coming)):
            query, key, value = (
                exchange.whole(_arrived(part).transpose(0, 1).flatten(1, 2), 0) for part in coming[half]
            )
            coming[half] = []
            own = replace(call, tokens_per_frame=self._slices.num_tokens, slot=(*call.slot, half))
            out = exchange.parted(self._alone.attend(query, key, value, own), 0, num_queries)
            going.append(_sent(out.unflatten(1, (ranks, -1)).transpose(0, 1)))
        for heads, part in zip(result.split(size, dim=3), going, strict=True):
            heads.copy_(_arrived(part).permute(1, 2, 0, 3, 4))
        return result.flatten(2, 3)


def _sent(parts: Tensor) -> Tensor:
    """Give part p of `parts` to rank p. The same shape comes back, of parts from all ranks, once it has `_arrived`."""
    out: Tensor = all_to_all_single(parts.contiguous(), None, None, xfuser().sequence_groups.ULYSSES_PG)
    return out


def _arrived(parts: Tensor) -> Tensor:
    out: Tensor = parts.wait() if isinstance(parts, AsyncCollectiveTensor) else parts
    return out


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float,
    is_causal: bool,
    attention_kwargs: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """What `USP` calls after its exchange, on (B H S D): once for every rank of the ring."""
    assert attention_kwargs is not None and dropout_p == 0.0 and not is_causal
    inner: _RingCall = attention_kwargs[_BACKEND]
    out, lse = inner(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2), lse.transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class _Exchange:
    """What one call is about, and how its tensors are ordered. `tokens` are (B S H D)."""

    slices: Slices
    ulysses: int
    call: AttentionCall

    def whole(self, tokens: Tensor, ring_rank: int) -> Tensor:
        """Frames of the tokens that ring rank `ring_rank` brought together."""
        num_real = self.num_tokens_of(ring_rank)
        return to_frames(tokens, num_ranks=self.ulysses, width=self.slices.width, num_real=num_real)

    def parted(self, tokens: Tensor, ring_rank: int, num_tokens: int) -> Tensor:
        """The inverse of `whole`, with zeros for padding. `num_tokens` of its tokens are on each rank."""
        width = self.slices.width
        return from_frames(
            tokens,
            num_ranks=self.ulysses,
            width=width,
            num_real=self.num_tokens_of(ring_rank),
            num_frames=num_tokens // width,
        )

    def num_tokens_of(self, ring_rank: int) -> int:
        return self.slices.num_real(ring_rank * self.ulysses, self.ulysses)


@dataclass(kw_only=True)
class _RingCall:
    """Own queries, and the keys and values of one ring rank after another, starting with the own ones."""

    backend: LogSumExpBackend
    exchange: _Exchange
    ring: int
    ring_rank: int
    step: int = 0
    query: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        source = (self.ring_rank - self.step) % self.ring
        if self.step == 0:
            self.query = self.exchange.whole(query, self.ring_rank)
        self.step += 1
        num_tokens = self.exchange.num_tokens_of(source)
        own = self.query
        if not own.shape[1] or not num_tokens:
            # Own keys come first, so a query that is not padding has seen some keys before a part without any.
            out, lse = torch.zeros_like(own), own.new_full((*own.shape[:3], 1), -torch.inf, dtype=torch.float32)
        else:
            out, lse = self._attend(
                own, self.exchange.whole(key, source), self.exchange.whole(value, source), source, num_tokens
            )
        own_tokens = query.shape[1] // self.exchange.ulysses
        out, lse = (self.exchange.parted(part, self.ring_rank, own_tokens) for part in (out, lse))
        return out, lse.squeeze(-1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, source: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """The output (B Sq H D) and log-sum-exp (B Sq H 1) for the tokens of one ring rank; blocks as in
        `BlockCausalAttention`."""
        span, cache = self.exchange.call.span, self.exchange.call.cache
        if cache is not None:
            slot = (*self.exchange.call.slot, source)
            key, value = cache.join(slot, key, value, num_stored_frames=span.num_stored, tokens_per_frame=num_tokens)
        per_frame = self.exchange.num_tokens_of(self.ring_rank)
        first_frame = span.stop - query.shape[1] // per_frame
        parts = [
            self.backend.attend_with_lse(
                query[:, (first - first_frame) * per_frame : (end - first_frame) * per_frame],
                key[:, : end_of_keys * num_tokens],
                value[:, : end_of_keys * num_tokens],
            )
            for first, end, end_of_keys in span.query_groups(first_frame)
        ]
        out = torch.cat([out for out, _ in parts], dim=1)
        lse = torch.cat([lse for _, lse in parts], dim=2).float()
        return out, lse.transpose(1, 2).unsqueeze(-1)
