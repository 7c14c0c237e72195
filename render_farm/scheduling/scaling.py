"""How many workers a farm on an autoscaling cluster asks for, and which ones it lets go. Pure.

A film is rendered by one render group at a time, so no more workers can be busy than the unfinished films' groups can
hold. That falls as the tail empties, and the farm asks for less. Of a budget, only so many workers are asked for as can
be paid until they could be gone again; when what is there can hardly be paid to its end, the run has to stop.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

HOLD_S = 600.0
"""A worker that is asked for costs at least as long as this: its machine starts, and lingers when it is idle."""
STOP_S = 60.0
"""What is there costs at least as long as this from the decision to stop to its end."""


@dataclass(frozen=True, kw_only=True)
class ScaleLimits:
    """What a farm may ask for."""

    max_workers: int
    """GPUs, or CPU slots of a farm that renders on CPUs."""
    max_cost: float | None = None
    price_per_hour: float | None = None
    """Of one worker's GPU; given where `max_cost` is."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is left to do, and what is there for it."""

    num_films: int
    """Films that are not finished and may be worked on."""
    group_size: int = 1
    """Workers of the largest render group among them."""
    workers_a_film: int = 1
    """The most that one of them can use at a time: its group, or a larger one where workers are idle."""
    num_there: int = 0
    """GPUs (or slots) that the cluster has now."""
    spent: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to ask for."""

    num_workers: int
    reason: str
    stop: bool = False
    """The budget is spent: the run must end now."""


def decide(demand: Demand, limits: ScaleLimits) -> Decision:
    """How many workers the farm should have now."""
    useful = demand.num_films * max(demand.group_size, demand.workers_a_film)
    wanted, reason = useful, f"{demand.num_films} unfinished films"
    if wanted > limits.max_workers:
        wanted, reason = limits.max_workers, f"--max-gpus {limits.max_workers}"
    if limits.max_cost is not None and limits.price_per_hour:
        left = limits.max_cost - demand.spent
        if left <= demand.num_there * limits.price_per_hour * STOP_S / 3600 and useful:
            return Decision(num_workers=0, reason=_spent(demand, limits), stop=True)
        affordable = math.floor(max(left, 0.0) / (limits.price_per_hour * HOLD_S / 3600))
        if affordable < wanted:
            wanted, reason = affordable, f"--max-cost {limits.max_cost:g}, of which {demand.spent:.2f} is spent"
    # A group that cannot be whole is of no use. What is there already is paid for, and may finish.
    if demand.group_size > 1:
        wanted = wanted // demand.group_size * demand.group_size
    if wanted == 0 and useful and demand.num_there == 0 and limits.max_cost is not None:
        return Decision(num_workers=0, reason=_spent(demand, limits), stop=True)
    return Decision(num_workers=wanted, reason=reason)


def packs(num_workers: int, group_size: int) -> list[int]:
    """What one machine each must have room for: a group lies on one, which eight machines of one GPU do not offer."""
    return [group_size] * (num_workers // group_size)


def _spent(demand: Demand, limits: ScaleLimits) -> str:
    return f"--max-cost {limits.max_cost:g} is reached: {demand.spent:.2f} is spent, and no worker can be paid longer"


@dataclass(frozen=True, kw_only=True)
class Present:
    """A worker that is up."""

    name: str
    host: str
    is_idle: bool


def leavers(workers: Iterable[Present], wanted: int) -> list[str]:
    """Idle workers to let go, so that `wanted` are left where that is possible. The hosts with the fewest busy workers
    are emptied first: a machine can only be given back as a whole."""
    present = list(workers)
    surplus = len(present) - wanted
    busy = Counter(worker.host for worker in present if not worker.is_idle)
    idle = sorted((worker for worker in present if worker.is_idle), key=lambda w: (busy[w.host], w.host, w.name))
    return [worker.name for worker in idle[: max(surplus, 0)]]
