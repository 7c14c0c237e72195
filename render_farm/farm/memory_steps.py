"""The memory modes below the one a job names, for a film that ran out of memory. `auto` steps down in the engine."""

from __future__ import annotations

from dataclasses import replace

from render_farm.memory_mode import MemoryMode, next_smaller, parse_memory
from render_farm.planning import FilmPlan


def memory_modes(plan: FilmPlan, device: str) -> list[MemoryMode]:
    """The modes to try for a film on `cuda` or `cpu`, the named one first. All give the same film."""
    modes = [parse_memory(plan.job.memory)]
    while (smaller := next_smaller(modes[-1], device)) is not None:
        modes.append(smaller)
    return modes


def at_step(plan: FilmPlan, step: int, device: str) -> FilmPlan:
    """The plan in the mode `step` places below its own."""
    if step == 0:
        return plan
    mode = memory_modes(plan, device)[step]
    return replace(plan, job=replace(plan.job, memory=str(mode)))
