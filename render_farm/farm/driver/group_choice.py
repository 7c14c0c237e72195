"""Which render groups a run's films have: the degrees they name, or `auto`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from render_farm.errors import ModelError
from render_farm.planning import FilmPlan
from render_farm.planning.group_choice import FilmGroups, film_groups
from render_farm.planning.group_cost import machine_of
from render_farm.planning.group_options import GroupOptions
from render_farm.planning.groups import group_of
from render_farm.planning.model_sizes import ModelSizes

MOST_CPU_WORKERS = 4
"""Of a run that does not say how many."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """The resources of a host for a group."""

    device: str
    """`cuda` or `cpu`."""
    num_workers: int
    memory_bytes: int | None = None
    """Of each worker's device; None: not known, taken as enough."""


class GroupChooser:
    """Called with a film's plan. `shapes_of` looks at a model by its name, once each."""

    def __init__(
        self, options: GroupOptions, host: Host, shapes_of: Callable[[str], ModelSizes], *, chooses: bool
    ) -> None:
        """Without `chooses`, degrees that a job leaves open are 1."""
        self.host = host
        self._chooses = chooses
        self._machine = machine_of(options, host.device)
        self._sizes_of = cache(shapes_of)

    def __call__(self, plan: FilmPlan) -> FilmGroups:
        if not self._chooses:
            return FilmGroups(group=group_of(plan.job))
        try:
            sizes = self._sizes_of(plan.spec.name)
        except ModelError:  # its sizes are not known
            return FilmGroups(group=group_of(plan.job))
        host = self.host
        return film_groups(plan, sizes, self._machine, num_workers=host.num_workers, memory_bytes=host.memory_bytes)


def this_host(device: str, num_workers: int | None) -> Host:
    """This machine, with as many workers as are asked for, or as it has slots."""
    if device == "cpu":
        return Host(device=device, num_workers=num_workers or min(os.cpu_count() or 1, MOST_CPU_WORKERS))
    import torch

    slots = torch.cuda.device_count()
    memory = min((torch.cuda.get_device_properties(index).total_memory for index in range(slots)), default=None)
    return Host(device=device, num_workers=min(num_workers or slots, slots), memory_bytes=memory)
