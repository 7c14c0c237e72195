"""The dense attention kernels that a device may have, by name.

torch's are called as the operators that `scaled_dot_product_attention` chooses between, not through `sdpa_kernel`: that
context is process-wide, and another thread decodes at the same time.

Shapes: B batch, S tokens, H heads, D channels of a head.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from render_farm.engine.transformer.attention import LogSumExpBackend, TorchAttention

_aten = torch.ops.aten
_HALF = (torch.bfloat16, torch.float16)


class _TorchKernel(TorchAttention):
    """One of torch's operators on (B H S D). A bias is left to torch's own choice: not every operator takes one."""

    def __init__(self, run: Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]) -> None:
        self._run = run

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None) -> Tensor:
        if bias is not None:
            return super().attend(query, key, value, bias=bias)
        return self._run(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), False)[0].transpose(1, 2)

    def attend_with_lse(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = self._run(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), True)
        return out.transpose(1, 2), lse[..., : query.shape[1]]


def _flash(query: Tensor, key: Tensor, value: Tensor, _: bool) -> tuple[Tensor, Tensor]:
    if query.device.type == "cpu":
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    else:
        out, lse = _aten._scaled_dot_product_flash_attention(query, key, value)[:2]
    return out, lse


def _cudnn(query: Tensor, key: Tensor, value: Tensor, with_lse: bool) -> tuple[Tensor, Tensor]:
    out, lse = _aten._scaled_dot_product_cudnn_attention(query, key, value, None, with_lse)[:2]
    return out, lse.squeeze(-1) if with_lse and lse.dim() == 4 else lse


def _efficient(query: Tensor, key: Tensor, value: Tensor, with_lse: bool) -> tuple[Tensor, Tensor]:
    out, lse = _aten._scaled_dot_product_efficient_attention(query, key, value, None, with_lse)[:2]
    return out, lse


def _math(query: Tensor, key: Tensor, value: Tensor, _: bool) -> tuple[Tensor, Tensor]:
    """All scores at once, as torch's math kernel: of tokens x tokens in memory."""
    scores = (query.float() @ key.float().transpose(-2, -1)) * query.shape[-1] ** -0.5
    return (scores.softmax(dim=-1) @ value.float()).to(query.dtype), scores.logsumexp(dim=-1)


class _FlashAttention(TorchAttention):
    """FlashAttention 2 or 3 (Dao-AILab), which takes (B S H D) as it is."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None) -> Tensor:
        if bias is not None:
            return super().attend(query, key, value, bias=bias)
        given = self._function(query, key, value)
        # Early releases of 3 always return the log-sum-exp too.
        out: Tensor = given[0] if isinstance(given, tuple) else given
        return out

    def attend_with_lse(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = self._function(query, key, value, return_attn_probs=True)[:2]
        return out, lse


class _SageAttention(TorchAttention):
    """SageAttention: scores from 8-bit queries and keys."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None) -> Tensor:
        if bias is not None:
            return super().attend(query, key, value, bias=bias)
        out: Tensor = self._function(query, key, value, tensor_layout="NHD")
        return out

    def attend_with_lse(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = self._function(query, key, value, tensor_layout="NHD", return_lse=True)
        return out, lse


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """How a backend is made, and where it may run."""

    make: Callable[[], LogSumExpBackend]
    """Raises ImportError where its package is not installed."""
    devices: tuple[str, ...] = ("cuda",)
    dtypes: tuple[torch.dtype, ...] = _HALF
    approximate: bool = False
    """Whether its result differs from the formula by more than rounding."""
    last_resort: bool = False
    """Takes memory for every score: chosen when no other backend runs."""


def _from_package(wrap: Callable[[Any], LogSumExpBackend], module: str, name: str) -> Callable[[], LogSumExpBackend]:
    return lambda: wrap(getattr(importlib.import_module(module), name))


_EVERY_DTYPE = (*_HALF, torch.float32)

BACKENDS: dict[str, BackendSpec] = {
    "flash_attn_3": BackendSpec(make=_from_package(_FlashAttention, "flash_attn_interface", "flash_attn_func")),
    "torch_cudnn": BackendSpec(make=lambda: _TorchKernel(_cudnn)),
    "flash_attn_2": BackendSpec(make=_from_package(_FlashAttention, "flash_attn", "flash_attn_func")),
    "torch_flash": BackendSpec(make=lambda: _TorchKernel(_flash), devices=("cuda", "cpu"), dtypes=_EVERY_DTYPE),
    "torch_efficient": BackendSpec(make=lambda: _TorchKernel(_efficient), dtypes=_EVERY_DTYPE),
    "sage": BackendSpec(make=_from_package(_SageAttention, "sageattention", "sageattn"), approximate=True),
    "torch_math": BackendSpec(
        make=lambda: _TorchKernel(_math), devices=("cuda", "cpu"), dtypes=_EVERY_DTYPE, last_resort=True
    ),
}
"""In the order in which they are taken when they are equally fast."""
