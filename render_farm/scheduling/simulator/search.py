"""How many GPUs a night needs: the smallest number with which everything is over in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from render_farm.scheduling.simulator.farm import SimulatedFarm
from render_farm.scheduling.simulator.outcome import Outcome


def fewest_gpus(
    simulated: Callable[[SimulatedFarm], Outcome],
    farm: SimulatedFarm,
    *,
    within_s: float,
    most_gpus: int,
    on_tried: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome | None:
    """The outcome on the fewest GPUs (whole nodes; parts of one below that, and `most_gpus`) that end every film within
    `within_s`, or None when `most_gpus` do not. `simulated` runs the films on a farm; `on_tried` is told of every farm
    that was tried."""
    sizes = _sizes(farm.gpus_per_node, most_gpus)
    if not sizes:
        return None

    def outcome_of(index: int) -> Outcome:
        found = simulated(replace(farm, num_gpus=sizes[index]))
        on_tried(found)
        return found

    best = outcome_of(len(sizes) - 1)
    if not _in_time(best, within_s):
        return None
    # No number of GPUs below the work divided by the time can do; begin a little above it.
    least = best.bound.work_s * best.num_gpus / within_s
    low = next((index for index, size in enumerate(sizes) if size >= least), len(sizes) - 1)
    high, step = len(sizes) - 1, 1
    while low < high:
        middle = min(low + step - 1, (low + high) // 2) if step else (low + high) // 2
        found = outcome_of(middle)
        if _in_time(found, within_s):
            best, high, step = found, middle, 0
        else:
            low, step = middle + 1, step * 2
    return best


def _in_time(outcome: Outcome, within_s: float) -> bool:
    return outcome.makespan_s <= within_s and not outcome.num_left


def _sizes(gpus_per_node: int, most_gpus: int) -> list[int]:
    parts = [2**power for power in range(int(math.log2(gpus_per_node)) + 1) if 2**power < gpus_per_node]
    nodes = list(range(gpus_per_node, most_gpus + 1, gpus_per_node))
    return sorted({size for size in (*parts, *nodes, most_gpus) if size <= most_gpus})
