"""Bounds for comparisons of float32 results, from an error model instead of from what one machine showed.

Two correct kernels add the same numbers in different orders. Each addition rounds by at most half an epsilon of the
numbers' size in either of them, so one addition moves their difference by at most `EPSILON * size`.
"""

from __future__ import annotations

from math import sqrt

import torch

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
