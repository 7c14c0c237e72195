"""Which attention backend a device gets: the ones that run and are right here, and of those the fastest.

A backend is right when it agrees with the formula in float64 on a small problem; a kernel that runs and is silently
wrong is worse than none. Speed is measured once per process at a shape like a window's (`_TIMED_TOKENS`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from render_farm.engine.device import KERNEL_FAILURES
from render_farm.engine.transformer.attention import LogSumExpBackend
from render_farm.engine.transformer.attention_backends import BACKENDS, BackendSpec
from render_farm.errors import DeviceError, UsageError

AUTO = "auto"

_TRIED_TOKENS = (192, 320)
"""Queries and keys of the problem that is checked."""
_TIMED_TOKENS = {"cuda": (8192, 16384), "cpu": (256, 512)}
"""Queries and keys of the one that is timed: on a GPU about 4 latent frames of 544x960 that see 8."""
_MOST_ERROR = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Of results of about 1, far above rounding and far below a wrong kernel."""
_MOST_ERROR_APPROXIMATE = 0.2
_EQUALLY_FAST = 1.05
"""A backend within this factor of the fastest is taken when `BACKENDS` has it first, so that like machines choose alike
and a segment has the same bits on each."""


@dataclass(frozen=True, kw_only=True)
class AttentionChoice:
    """The backend that was chosen and why."""

    name: str
    usable: Mapping[str, LogSumExpBackend] = field(repr=False, compare=False)
    """All that can be used here."""
    asked: str
    timings_ms: dict[str, float]
    """Of each backend that was timed; empty when one was asked for by name."""
    refused: dict[str, str]
    """Why the others cannot be used here, by name."""

    @property
    def backend(self) -> LogSumExpBackend:
        return self.usable[self.name]

    def agreed(self, name: str) -> AttentionChoice:
        """The backend that other devices of this kind use, if it was one of those to choose from here."""
        return replace(self, name=name) if name in self.timings_ms else self

    @property
    def approximate(self) -> bool:
        return BACKENDS[self.name].approximate

    def to_dict(self) -> dict[str, Any]:
        """For `job.json` and results of benchmarks."""
        return {"name": self.name, "asked": self.asked, "timings_ms": self.timings_ms, "refused": self.refused}

    def __str__(self) -> str:
        if self.asked != AUTO:
            return f"attention: {self.name} (as asked)"
        timings = ", ".join(f"{name} {value:.3g} ms" for name, value in self.timings_ms.items())
        return f"attention: {self.name}" + (f" (chosen from {timings})" if len(self.timings_ms) > 1 else "")


_SLOW_ON_HOPPER = ("flash_attn_2", "torch_flash", "torch_efficient", "torch_math")


def slow_notes(choice: AttentionChoice, capability: tuple[int, int]) -> tuple[str, ...]:
    """A line when an H100 or H200 (compute capability 9.0) makes do with kernels of older GPUs."""
    if capability != (9, 0) or choice.name not in _SLOW_ON_HOPPER or choice.asked != AUTO:
        return ()
    missing = "; ".join(
        f"{name}: {choice.refused[name]}" for name in ("flash_attn_3", "torch_cudnn") if name in choice.refused
    )
    return (f"attention: {choice.name} makes a step about a quarter slower than this GPU allows ({missing})",)


def check_device(asked: str, device_type: str) -> None:
    """Raise `UsageError` when `asked` is unknown, or never runs on devices of this type (`cuda` or `cpu`)."""
    if asked == AUTO:
        return
    if asked not in BACKENDS:
        raise UsageError(f"attention: {asked!r} is not known", advice=f"known are {', '.join((AUTO, *BACKENDS))}")
    if device_type not in BACKENDS[asked].devices:
        others = [name for name, spec in BACKENDS.items() if device_type in spec.devices]
        raise UsageError(
            f"attention: {asked} runs on {' and '.join(BACKENDS[asked].devices)}, not on {device_type}",
            advice=f"usable here are {', '.join((AUTO, *others))}",
        )


@lru_cache(maxsize=16)
def choose_backend(
    asked: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    num_heads: int,
    head_dim: int,
    allow_approximate: bool = False,
) -> AttentionChoice:
    """The backend for attention of `num_heads` x `head_dim` in `dtype` on `device`.

    `asked` is a name of `BACKENDS`, or `auto`: the fastest usable one, `torch_math` only when nothing else runs,
    SageAttention only with `allow_approximate`. Raises `UsageError` for a name that is unknown or not usable here,
    `DeviceError` when nothing runs.
    """
    check_device(asked, device.type)
    usable: dict[str, LogSumExpBackend] = {}
    refused: dict[str, str] = {}
    for name, spec in BACKENDS.items():
        try:
            usable[name] = _tried(spec, device, dtype, head_dim)
        except _Unusable as reason:
            refused[name] = str(reason)
    if asked != AUTO:
        if asked not in usable:
            raise UsageError(
                f"attention: {asked} cannot be used on {device} in {str(dtype).removeprefix('torch.')}: "
                f"{refused[asked]}",
                advice=f"usable here are {', '.join((AUTO, *usable))}",
            )
        return AttentionChoice(name=asked, usable=usable, asked=asked, timings_ms={}, refused=refused)
    candidates = [name for name in usable if allow_approximate or not BACKENDS[name].approximate]
    candidates = [name for name in candidates if not BACKENDS[name].last_resort] or candidates
    if not candidates:
        raise DeviceError(f"attention: not even torch's plain kernel runs on {device}: {refused['torch_math']}")
    timings = {name: _seconds(usable[name], device, dtype, num_heads, head_dim) * 1000 for name in candidates}
    fastest = min(timings.values())
    name = next(name for name in candidates if timings[name] <= _EQUALLY_FAST * fastest)
    return AttentionChoice(
        name=name,
        usable=usable,
        asked=asked,
        timings_ms={name: round(value, 4) for name, value in timings.items()},
        refused=refused,
    )


class _Unusable(Exception):
    """Why a backend is not for this device."""


def _tried(spec: BackendSpec, device: torch.device, dtype: torch.dtype, head_dim: int) -> LogSumExpBackend:
    """The backend, after it has solved a small problem rightly here."""
    if device.type not in spec.devices:
        raise _Unusable(f"it runs on {' and '.join(spec.devices)}")
    if dtype not in spec.dtypes:
        raise _Unusable(f"it computes in {', '.join(str(dtype).removeprefix('torch.') for dtype in spec.dtypes)}")
    query, key, value = _problem(*_TRIED_TOKENS, 2, head_dim, device, dtype)
    q, k, v = (tensor.double().cpu().transpose(1, 2) for tensor in (query, key, value))
    exact = scaled_dot_product_attention(q, k, v).transpose(1, 2)
    try:
        backend = spec.make()
        with torch.no_grad():
            out = backend.attend(query, key, value).double().cpu()
    except KERNEL_FAILURES as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise _Unusable(reason if len(reason) <= 200 else f"{reason[:200]}...") from error
    largest = (out - exact).abs().max().item() if out.shape == exact.shape else float("nan")
    if not largest <= (_MOST_ERROR_APPROXIMATE if spec.approximate else _MOST_ERROR[dtype]):
        raise _Unusable(f"it runs but is wrong by {largest:.2g}")
    return backend


def _problem(
    num_queries: int, num_keys: int, num_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The same numbers every time: query (1 Sq H D), key and value (1 Sk H D)."""
    generator = torch.Generator(device=device).manual_seed(0)
    query, key, value = (
        torch.randn((1, tokens, num_heads, head_dim), generator=generator, device=device, dtype=torch.float32).to(dtype)
        for tokens in (num_queries, num_keys, num_keys)
    )
    return query, key, value


def _seconds(
    backend: LogSumExpBackend, device: torch.device, dtype: torch.dtype, num_heads: int, head_dim: int
) -> float:
    """Median seconds of a call."""
    query, key, value = _problem(*_TIMED_TOKENS[device.type], num_heads, head_dim, device, dtype)
    times = []
    with torch.no_grad():
        for number in range(7):
            started = time.perf_counter()
            backend.attend(query, key, value)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= 2:
                times.append(time.perf_counter() - started)
    return median(times)
