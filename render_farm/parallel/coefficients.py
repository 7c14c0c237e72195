"""The numbers of the cost model (`planning.group_cost.GroupMachine`), measured between the ranks of a group."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

_SMALL_VALUES, _SMALL_TRIALS = 1, 50
_LARGE_VALUES, _LARGE_TRIALS = 1 << 22, 5
"""Float32 values for each rank, and how often: 16 MiB, 5 times."""


@dataclass(frozen=True, kw_only=True)
class ExchangeCost:
    """Of an all-to-all between some ranks."""

    num_ranks: int
    exchange_s: float
    """Of one that sends next to nothing."""
    bytes_per_s: float
    """That a rank sends to others in a large one, on top of `exchange_s`."""


def measure_exchanges(ranks: Any, device: torch.device) -> ExchangeCost:
    """Every rank of `ranks` (torch's process group) makes this call."""
    size = dist.get_world_size(ranks)
    small_s = _seconds(ranks, device, size * _SMALL_VALUES, _SMALL_TRIALS)
    large_s = _seconds(ranks, device, size * _LARGE_VALUES, _LARGE_TRIALS)
    sent = (size - 1) * _LARGE_VALUES * torch.float32.itemsize
    return ExchangeCost(num_ranks=size, exchange_s=small_s, bytes_per_s=sent / max(large_s - small_s, 1e-9))


def _seconds(ranks: Any, device: torch.device, num_values: int, num_trials: int) -> float:
    """The mean of some exchanges, after one that is not counted."""
    given = torch.zeros(num_values, device=device)
    taken = torch.empty_like(given)

    def exchange() -> None:
        dist.all_to_all_single(taken, given, group=ranks)

    exchange()
    started = _now(device)
    for _ in range(num_trials):
        exchange()
    return (_now(device) - started) / num_trials


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
