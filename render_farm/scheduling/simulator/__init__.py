"""The scheduler in simulated time: the machine that decides in production, on a farm of which every GPU is made up."""

from __future__ import annotations

from render_farm.scheduling.simulator.farm import SimulatedFarm, simulate
from render_farm.scheduling.simulator.outcome import Outcome

__all__ = ["Outcome", "SimulatedFarm", "simulate"]
