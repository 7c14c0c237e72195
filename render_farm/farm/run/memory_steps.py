"""The memory modes below the one a job names, for a film that ran out of memory. `auto` steps down in the engine, but
not in a render group: its workers step down together, so the farm sees to it."""

from __future__ import annotations

from dataclasses import replace

from render_farm.memory_mode import MemoryMode, Placement, modes_of, next_smaller, parse_memory
from render_farm.planning import FilmPlan


def memory_modes(plan: FilmPlan, device: str, *, in_groups: bool = False) -> list[MemoryMode]:
    """The modes to try for a film on `cuda` or `cpu`, the named one first. All give the same film."""
    modes = [parse_memory(plan.job.memory)]
    if in_groups and modes[0].placement is Placement.AUTO:
        return [*modes, *modes_of(modes[0], device)[1:]]
    while (smaller := next_smaller(modes[-1], device)) is not None:
        modes.append(smaller)
    return modes


def with_memory_fallback(plan: FilmPlan, level: int, device: str, *, in_groups: bool = False) -> FilmPlan:
    """The plan in the memory mode `level` steps below its own."""
    if level == 0:
        return plan
    mode = memory_modes(plan, device, in_groups=in_groups)[level]
    return replace(plan, job=replace(plan.job, memory=str(mode)))
