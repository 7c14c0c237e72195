"""Attention, in two layers that can be replaced separately.

`AttentionBackend` is a dense kernel: every query sees every key. `SelfAttention` is what a transformer block calls: it
knows frame spans, causal blocks and the key/value cache, and calls a backend. A render group that shares heads
(Ulysses) wraps a `SelfAttention`: it exchanges tokens for heads, calls the inner one with all tokens of its own heads
(whose cache then holds only those), and exchanges back; one that shares keys in a ring replaces the backend.

Shapes: B batch, S tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from render_farm.engine.transformer.kv_cache import KeyValueCache, Slot
from render_farm.engine.transformer.span import FrameSpan


class AttentionBackend(Protocol):
    """A dense attention kernel."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Attend `query` (B Sq H D) to all of `key` and `value` (B Sk H D) with scale D**-0.5; returns (B Sq H D).

        `bias` (Sk), when given, is added to every query's scores; only cross-attention on the CPU gives one.
        """
        ...


class LogSumExpBackend(AttentionBackend, Protocol):
    """A kernel that can also say how much weight its scores had: what is needed to join results over parts of the keys
    (ring attention). All of `attention_backends.BACKENDS` can."""

    def attend_with_lse(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """As `attend`, and the logarithm of the sum of the exponentials of each query's scores, (B H Sq) float32."""
        ...


class TorchAttention:
    """torch's `scaled_dot_product_attention`, which picks its own kernel."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None) -> Tensor:
        mask = None if bias is None else bias.view(1, 1, 1, -1)
        out = scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
        )
        return out.transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """Where the tokens of one call of `SelfAttention` belong."""

    span: FrameSpan
    tokens_per_frame: int
    """Of the key and value: those of this rank, or of the whole group after an exchange."""
    cache: KeyValueCache | None
    """Holds the frames before the span. None: nothing of this window is cached."""
    slot: Slot
    """The layer and guidance branch, for the cache."""


class SelfAttention(Protocol):
    """Attention of a pass's tokens to themselves and to the cached tokens before them."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        """`key` and `value` (B S H D) are those of the span's frames, `query` (B Sq H D) those of its last frames.

        Rotary positions are applied already. Returns (B Sq H D).
        """
        ...


class BlockCausalAttention:
    """Block-causal attention without a mask: one backend call per block of queries, over the keys up to that block.

    The same result as the dense token-by-token mask of `SkyReelsV2Transformer3DModel.forward`.
    """

    def __init__(self, backend: AttentionBackend | None = None) -> None:
        self.backend: AttentionBackend = backend or TorchAttention()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        span, tokens_per_frame = call.span, call.tokens_per_frame
        if call.cache is not None:
            key, value = call.cache.join(
                call.slot, key, value, num_stored_frames=span.num_stored, tokens_per_frame=tokens_per_frame
            )
        first_frame = span.stop - query.shape[1] // tokens_per_frame
        outputs = [
            self.backend.attend(
                query[:, (first - first_frame) * tokens_per_frame : (end - first_frame) * tokens_per_frame],
                key[:, : end_of_keys * tokens_per_frame],
                value[:, : end_of_keys * tokens_per_frame],
            )
            for first, end, end_of_keys in span.query_groups(first_frame)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
