"""`simulate`: renders films on a simulated farm with the real scheduler."""

from __future__ import annotations

from collections.abc import Sequence

from render_farm.scheduling.costs import CostModel
from render_farm.scheduling.events import QueuedFilm
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.retry import RetryPolicy
from render_farm.scheduling.simulator.farm import SimulatedFarm
from render_farm.scheduling.simulator.outcome import Outcome
from render_farm.scheduling.simulator.simulation import Simulation


def simulate(
    films: Sequence[QueuedFilm],
    farm: SimulatedFarm,
    *,
    scheduling: SchedulingPolicy | None = None,
    retry: RetryPolicy | None = None,
    costs: CostModel | None = None,
    horizon_s: float = 30 * 24 * 3600.0,
    quotas: dict[str, int] | None = None,
) -> Outcome:
    """Render `films`, all of which are there at time 0, until every run is over. `quotas`: most workers by run.

    Deadlines count from time 0. What is not over at `horizon_s` is given up and reported so.
    """
    return Simulation(
        films, farm, scheduling=scheduling, retry=retry, costs=costs, horizon_s=horizon_s, quotas=quotas or {}
    ).run()
