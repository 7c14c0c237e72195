"""Bounds for comparisons of float32 results, from an error model instead of from what one machine showed.

Two correct kernels add the same numbers in different orders. Each addition rounds by at most half an epsilon of the
numbers' size in either of them, so one addition moves their difference by at most `EPSILON * size`.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps


def worst_rounding(size: float, num_operations: int) -> float:
    """The bound that always holds: every error has the same sign. For short chains of operations.

    Args:
        size: The largest absolute value among the numbers that are added up.
        num_operations: Operations on the longest chain from the inputs to one output.
    """
    return EPSILON * size * num_operations


def likely_rounding(size: float, num_operations: int) -> float:
    """The bound for long chains, whose errors are independent and grow as a random walk. Arguments as above."""
    return EPSILON * size * sqrt(num_operations)


def attention_rounding(query: Tensor, key: Tensor, value: Tensor) -> float:
    """The bound for the output of attention over (B S H D) tensors.

    An error of a score changes its weight in proportion, once above and once below the fraction line.
    """
    channels, num_keys = query.shape[-1], key.shape[1]
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * channels**-0.5
    relative = 2 * likely_rounding(scores.abs().max().item(), channels) + likely_rounding(1.0, num_keys)
    return relative * value.abs().max().item()
