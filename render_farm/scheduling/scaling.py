"""How many workers a farm on an autoscaling cluster asks for, and which ones it releases. Pure.

One render group renders a film at a time, so no more workers can be busy than the unfinished films' groups can hold, in
whole packs of a machine where groups need them. That number falls as the tail empties, and the farm asks for less. With
a budget, the farm asks only for workers that it can pay for until they are released. When the budget barely covers the
present workers until then, the run has to stop.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
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
    gpus_per_node: int | None = None
    """Of a machine that is to come; None: not known, and none is asked for that holds more than a group needs."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The work that is left, and the workers that are there for it."""

    films: Mapping[tuple[int, int], int]
    """How many films are not finished and may be worked on, by (workers of the smallest group that one may have, of the
    largest, which it takes where workers are idle)."""
    num_slots: int
    """Workers that the farm may have."""
    bundle_size: int = 1
    """So many slots in a row are on one machine. The last machine may have fewer."""
    num_there: int = 0
    """GPUs (or slots) that the cluster has now."""
    spent: float = 0.0

    @property
    def useful(self) -> int:
        """Workers that the films can use at a time."""
        return sum(number * max(size) for size, number in self.films.items())


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to ask for."""

    num_workers: int
    reason: str
    bundles: tuple[int, ...] = ()
    """What one machine each must have room for, `num_workers` in all: a group lies on one, which eight machines of one
    GPU do not offer."""
    stop: bool = False
    """The budget is spent: the run must end now."""


def decide(demand: Demand, limits: ScaleLimits) -> Decision:
    """How many workers the farm should have now."""
    useful = demand.useful
    wanted, reason = useful, f"{sum(demand.films.values())} unfinished films"
    ceiling = min(limits.max_workers, demand.num_slots)
    if wanted > ceiling:
        wanted, reason = ceiling, f"--max-gpus {ceiling}"
        if ceiling < limits.max_workers:
            reason = f"this farm has {ceiling} workers at most"
    if limits.max_cost is not None and limits.price_per_hour:
        left = limits.max_cost - demand.spent
        if left <= demand.num_there * limits.price_per_hour * STOP_S / 3600 and useful:
            return Decision(num_workers=0, reason=_spent(demand, limits), stop=True)
        affordable = math.floor(max(left, 0.0) / (limits.price_per_hour * HOLD_S / 3600))
        ceiling = min(ceiling, affordable)
        if affordable < wanted:
            reason = f"--max-cost {limits.max_cost:g}, of which {demand.spent:.2f} is spent"
    # A pack that cannot be whole is of no use. What is there already is paid for, and may finish.
    bundles = _bundles(demand, limits, ceiling) if useful else ()
    if not bundles and useful and demand.num_there == 0 and limits.max_cost is not None:
        return Decision(num_workers=0, reason=_spent(demand, limits), stop=True)
    return Decision(num_workers=sum(bundles), reason=reason, bundles=bundles)


def _bundles(demand: Demand, limits: ScaleLimits, ceiling: int) -> tuple[int, ...]:
    """As many packs as the films can use, as far as `ceiling` workers go; on larger machines where those are to come,
    and larger groups may form on them."""
    films = {size: number for size, number in demand.films.items() if number}
    pack = max(demand.bundle_size, *(group for group, _ in films))
    num_whole, last = divmod(demand.num_slots, pack)
    num_packs = min(-(-demand.useful // pack), num_whole, ceiling // pack)
    taken = num_packs * pack
    is_last_used = num_packs == num_whole and min(films)[0] <= last <= ceiling - taken and taken < demand.useful
    largest = max(most for _, most in films)
    machine = max(min(largest, limits.gpus_per_node or 0) // pack * pack, pack)
    num_larger = sum(number for (_, most), number in films.items() if most > pack)
    num_machines = min(num_larger, taken // machine) if machine > pack else 0
    num_packs -= num_machines * machine // pack
    return (*[machine] * num_machines, *[pack] * num_packs, *([last] if is_last_used else []))


def _spent(demand: Demand, limits: ScaleLimits) -> str:
    return (
        f"--max-cost {limits.max_cost:g} is reached: {demand.spent:.2f} is spent, and it cannot pay for "
        "workers any longer"
    )


@dataclass(frozen=True, kw_only=True)
class Present:
    """A worker that is up."""

    name: str
    host: str
    is_idle: bool


def to_release(workers: Iterable[Present], wanted: int) -> list[str]:
    """Idle workers to release, so that `wanted` are left if possible. The hosts with the fewest busy workers come
    first: a machine can only be given back as a whole."""
    present = list(workers)
    surplus = len(present) - wanted
    busy = Counter(worker.host for worker in present if not worker.is_idle)
    idle = sorted((worker for worker in present if worker.is_idle), key=lambda w: (busy[w.host], w.host, w.name))
    return [worker.name for worker in idle[: max(surplus, 0)]]
