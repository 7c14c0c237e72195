"""Attention backends for the ring: those that return the logarithm of the sum of the exponentials of their scores.

The ring attends to a part of the keys at a time and weighs the parts by it. A wrong one gives no error but wrong films,
so a backend is tried on a small problem before it is used.

Shapes: B batch, S tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from render_farm.engine.transformer.attention import AttentionBackend, LogSumExpBackend
from render_farm.errors import UsageError

_MOST_ERROR = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_TRIED_TOKENS = (70, 90)
FAILURES = (RuntimeError, ImportError, OSError, NotImplementedError, TypeError, ValueError, AttributeError)
"""What kernels and their packages raise where they cannot run."""


@dataclass(frozen=True, kw_only=True)
class AttentionErrors:
    """The largest errors of a backend on a problem of random numbers; nan where a shape is wrong."""

    output: float
    log_sum_exp: float


def errors_of(
    backend: LogSumExpBackend,
    *,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    num_tokens: tuple[int, int] = _TRIED_TOKENS,
) -> AttentionErrors:
    """`backend` against the formula in float64, on the same rounded inputs; `num_tokens` are queries and keys. What it
    raises passes."""
    generator = torch.Generator().manual_seed(0)
    num_queries, num_keys = num_tokens
    query, key, value = (
        torch.randn((1, count, 2, head_dim), generator=generator).to(device, dtype)
        for count in (num_queries, num_keys, num_keys)
    )
    out, lse = backend.attend_with_lse(query, key, value)
    scores = torch.einsum("bqhd,bkhd->bhqk", query.double(), key.double()) * head_dim**-0.5
    exact = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=-1), value.double())
    return AttentionErrors(output=_largest(out, exact), log_sum_exp=_largest(lse, scores.logsumexp(dim=-1)))


def _largest(found: Tensor, exact: Tensor) -> float:
    return (found.double() - exact).abs().max().item() if found.shape == exact.shape else float("nan")


@lru_cache(maxsize=16)
def require_log_sum_exp(
    backend: AttentionBackend, *, device: torch.device, dtype: torch.dtype, head_dim: int
) -> LogSumExpBackend:
    """`backend`, when it gives the right log-sum-exp here; else `UsageError` names it."""
    name = type(backend).__name__.lstrip("_")
    if not hasattr(backend, "attend_with_lse"):
        raise UsageError(
            f"attention {name} gives no log-sum-exp, which the ring needs",
            advice="use ring 1, or one of `attention_backends.BACKENDS`",
        )
    able = cast(LogSumExpBackend, backend)
    try:
        wrong = errors_of(able, device=device, dtype=dtype, head_dim=head_dim).log_sum_exp
    except FAILURES as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"attention {name} cannot be used in a ring on {device}: {reason}") from error
    if not wrong <= _MOST_ERROR.get(dtype, 5e-2):
        raise UsageError(
            f"attention {name} gives a log-sum-exp that is wrong by {wrong:.2g} on {device}; a ring would render noise",
            advice="use ring 1, or another attention backend",
        )
    return able
