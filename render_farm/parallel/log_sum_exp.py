"""Attention backends for the ring: those that return the logarithm of the sum of the exponentials of their scores.

The ring attends to a part of the keys at a time and weighs the parts by it. A wrong one gives no error but wrong films,
so a backend is tried on a small problem before it is used.

Shapes: B batch, S tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch

from render_farm.engine.attention import AttentionBackend, LogSumExpBackend
from render_farm.errors import UsageError

_MOST_ERROR = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)


@lru_cache(maxsize=16)
def require_log_sum_exp(
    backend: AttentionBackend, *, device: torch.device, dtype: torch.dtype, head_dim: int
) -> LogSumExpBackend:
    """`backend`, when it gives the right log-sum-exp here; else `UsageError` names it."""
    name = type(backend).__name__.lstrip("_")
    if not hasattr(backend, "attend_with_lse"):
        raise UsageError(
            f"attention {name} gives no log-sum-exp, which the ring needs",
            advice="use ring 1, or one of `engine.backends.BACKENDS`",
        )
    able = cast(LogSumExpBackend, backend)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn((1, n, 2, head_dim), generator=generator) for n in (70, 90, 90))
    scores = torch.einsum("bqhd,bkhd->bhqk", query.double(), key.double()) * head_dim**-0.5
    try:
        _, lse = able.attend_with_lse(*(tensor.to(device, dtype) for tensor in (query, key, value)))
    except _FAILURES as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"attention {name} cannot be used in a ring on {device}: {reason}") from error
    expected = scores.logsumexp(dim=-1)
    wrong = (lse.double().cpu() - expected).abs().max().item() if lse.shape == expected.shape else float("nan")
    if not wrong <= _MOST_ERROR.get(dtype, 5e-2):
        raise UsageError(
            f"attention {name} gives a log-sum-exp that is wrong by {wrong:.2g} on {device}; a ring would render noise",
            advice="use ring 1, or another attention backend",
        )
    return able
