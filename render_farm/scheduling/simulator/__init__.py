"""The scheduler in simulated time: the machine that decides in production, on a farm of which every GPU is made up."""

from __future__ import annotations

from render_farm.scheduling.simulator.farm import SimulatedFarm
from render_farm.scheduling.simulator.outcome import Outcome
from render_farm.scheduling.simulator.simulate import simulate

__all__ = ["Outcome", "SimulatedFarm", "simulate"]
