"""Choosing the degrees of a film's render groups (`auto`) from its tokens and heads, memory, and a cost model.

A group uses its workers less efficiently than as many separate films do. So a film is rendered by the fewest workers
that it fits on, usually one. It may have larger groups while workers would otherwise be idle, as the scheduler decides.
Of every size the fastest shape is taken, and no size that is no faster than a smaller one, or wastes its workers. A
group stays on one host. It may change between any two segments, so it must be worth it in a segment for which it forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from render_farm.planning.film import FilmPlan
from render_farm.planning.group_cost import GroupMachine, StepWork, segment_seconds, step_seconds, step_work
from render_farm.planning.groups import GroupShape, group_of, possible_shapes
from render_farm.planning.memory import estimate_memory, usable_bytes
from render_farm.planning.model_sizes import ModelSizes

WORTH = 0.5
"""The least efficiency (time on one worker / number of workers / time of the group) of a larger group."""


@dataclass(frozen=True, kw_only=True)
class FilmGroups:
    """Which groups render a film's segments."""

    group: GroupShape
    """Of the workers that it needs."""
    joined: tuple[GroupShape, ...] = ()
    """Larger ones, which it takes when workers would be idle otherwise, one per size, from small to large."""
    joined_speeds: tuple[float, ...] = ()
    """How many times as fast as `group` each of them is, by the cost model."""


@dataclass(frozen=True, kw_only=True)
class AskedDegrees:
    """What a job says of its group; None is left to the choice."""

    cfg: int | None = None
    ulysses: int | None = None
    ring: int | None = None

    @property
    def degrees(self) -> tuple[int | None, int | None, int | None]:
        return (self.cfg, self.ulysses, self.ring)

    @property
    def num_workers(self) -> int:
        """That the named degrees take."""
        return prod(degree or 1 for degree in self.degrees)

    def allow(self, shape: GroupShape) -> bool:
        return all(asked in (None, own) for asked, own in zip(self.degrees, shape.degrees, strict=True))


def efficiency(work: StepWork, shape: GroupShape, machine: GroupMachine) -> float:
    """Time on one worker / number of workers / time of the group, by the cost model."""
    return step_seconds(work, GroupShape(), machine) / shape.size / step_seconds(work, shape, machine)


def choose_groups(
    shapes: Sequence[GroupShape],
    work: StepWork,
    machine: GroupMachine,
    *,
    num_steps: int,
    fits: Callable[[GroupShape], bool] = lambda shape: True,
) -> FilmGroups:
    """From the `shapes` (never none) that a film with segments of `num_steps` could have on a host.

    Where none fits, all are considered, because a smaller memory mode makes it fit. Between equally fast shapes of a
    size the first is taken.
    """

    def seconds(shape: GroupShape) -> float:
        return segment_seconds(work, shape, machine, num_steps=num_steps)

    fitting = [shape for shape in shapes if fits(shape)] or list(shapes)
    fastest: dict[int, GroupShape] = {}
    for shape in fitting:
        best = fastest.setdefault(shape.size, shape)
        if seconds(shape) < seconds(best):
            fastest[shape.size] = shape
    sizes = sorted(fastest)
    group = fastest[sizes[0]]
    joined: list[GroupShape] = []
    for size in sizes[1:]:
        shape, below = fastest[size], joined[-1] if joined else group
        if seconds(shape) < seconds(below) and seconds(GroupShape()) / shape.size / seconds(shape) >= WORTH:
            joined.append(shape)
    speeds = tuple(seconds(group) / seconds(shape) for shape in joined)
    return FilmGroups(group=group, joined=tuple(joined), joined_speeds=speeds)


def film_groups(
    plan: FilmPlan,
    sizes: ModelSizes,
    machine: GroupMachine,
    *,
    num_workers: int,
    memory_bytes: int | None = None,
) -> FilmGroups:
    """The groups of a film whose job leaves some degrees to the choice; those that it names are kept.

    `num_workers` is that of one host, `memory_bytes` what each worker's device has (None: enough). The degrees that the
    job names are possible ones: `check_group` has refused others.
    """
    job = plan.job
    asked = AskedDegrees(cfg=job.cfg_parallel if job.splits_branches else 1, ulysses=job.ulysses, ring=job.ring)
    possible = [
        shape
        for shape in possible_shapes(
            num_heads=plan.spec.num_heads,
            tokens_per_frame=plan.tokens_per_frame,
            guided=job.splits_branches,
            num_workers=max(num_workers, asked.num_workers),
        )
        if asked.allow(shape)
    ]

    def fits(shape: GroupShape) -> bool:
        estimate = estimate_memory(plan, sizes, shape=shape)
        return memory_bytes is None or estimate.least_bytes <= usable_bytes(memory_bytes)

    work, num_steps = step_work(plan, sizes.transformer), plan.schedule(0).num_rows
    return choose_groups(possible or [group_of(job)], work, machine, num_steps=num_steps, fits=fits)
