"""Choosing the degrees of a render group (`auto`), from the film, the workers of a host, and a cost model.

A group uses its workers less well than as many films side by side do. So while there are films for all workers, each
film gets one. It gets more when it does not fit on fewer, or when workers would be idle otherwise: then the host's
workers are shared out over the films that are left. A group stays on one host, and is no larger than pays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from render_farm.planning.film import FilmPlan
from render_farm.planning.group_cost import GroupMachine, StepWork, step_seconds, step_work
from render_farm.planning.groups import GroupShape, possible_shapes
from render_farm.planning.memory import Shares, estimate_memory
from render_farm.planning.shapes import ModelShapes

WORTH = 0.5
"""The least efficiency (time on one worker / number of workers / time of the group) of a larger group."""


@dataclass(frozen=True, kw_only=True)
class AskedDegrees:
    """What a job says of its group; None is left to the choice."""

    cfg: int | None = None
    ulysses: int | None = None
    ring: int | None = None

    def allow(self, shape: GroupShape) -> bool:
        return all(asked in (None, own) for asked, own in zip(self.degrees, shape.degrees, strict=True))

    @property
    def degrees(self) -> tuple[int | None, int | None, int | None]:
        return (self.cfg, self.ulysses, self.ring)


@dataclass(frozen=True, kw_only=True)
class GroupChoice:
    """A shape, and what the cost model says of it."""

    shape: GroupShape
    step_s: float
    """Of a mean step."""
    efficiency: float
    """Time on one worker / number of workers / time of the group."""
    fits: bool
    """Whether the film fits the memory of each worker with its weights resident, by the estimate."""

    def __str__(self) -> str:
        size = self.shape.size
        workers = f"{size} worker{'s' if size > 1 else ''} a segment"
        memory = "" if self.fits else ", more memory than a worker has"
        return f"{self.shape}: {workers}, {self.step_s:.3g} s a step, efficiency {self.efficiency:.0%}{memory}"


def best_shape(shapes: Sequence[GroupShape], work: StepWork, machine: GroupMachine) -> GroupShape:
    """The fastest of `shapes` by the cost model, among those that use their workers well enough; when none does, the
    smallest. Between equally fast ones the first is taken. One worker is always good enough."""
    alone = step_seconds(work, GroupShape(), machine)
    times = {shape: step_seconds(work, shape, machine) for shape in shapes}
    worth = [shape for shape in shapes if alone / (shape.size * times[shape]) >= WORTH]
    if not worth:
        return min(shapes, key=lambda shape: (shape.size, times[shape]), default=GroupShape())
    return min(worth, key=lambda shape: times[shape])


def choose_shape(
    shapes: Sequence[GroupShape],
    work: StepWork,
    machine: GroupMachine,
    *,
    num_workers: int,
    num_films: int,
    fits: Callable[[GroupShape], bool] = lambda shape: True,
) -> GroupShape:
    """One of `shapes` (never none) for each of `num_films` films on a host with `num_workers`.

    The best of those that each film can have at the same time and that fit; else the smallest that fits on the host;
    else the best that each can have, for a smaller memory mode makes it fit.
    """
    share = max(1, num_workers // max(1, num_films))
    here = [shape for shape in shapes if shape.size <= share]
    fitting = [shape for shape in shapes if shape.size <= num_workers and fits(shape)]
    if both := [shape for shape in here if shape in fitting]:
        return best_shape(both, work, machine)
    if fitting:
        return min(fitting, key=lambda shape: (shape.size, step_seconds(work, shape, machine)))
    if here:
        return best_shape(here, work, machine)
    return min(shapes, key=lambda shape: (shape.size, step_seconds(work, shape, machine)))


def choose_group(
    plan: FilmPlan,
    shapes: ModelShapes,
    machine: GroupMachine,
    *,
    num_workers: int,
    num_films: int = 1,
    memory_bytes: int | None = None,
    chooses: bool = True,
) -> GroupChoice:
    """The group of a film: the degrees that its job names, the others chosen (or 1, when not `chooses`).

    `num_workers` is that of one host, `num_films` how many films want them, `memory_bytes` what each worker's device
    has (None: enough). A job's degrees are possible ones; `check_group` has refused others.
    """
    job, work = plan.job, step_work(plan, shapes.transformer)
    asked = AskedDegrees(cfg=job.cfg_parallel if job.guided else 1, ulysses=job.ulysses, ring=job.ring)
    if not chooses:
        asked = AskedDegrees(cfg=asked.cfg or 1, ulysses=asked.ulysses or 1, ring=asked.ring or 1)

    def fits(shape: GroupShape) -> bool:
        shares = Shares(tokens=shape.sequence, branches=shape.cfg)
        return memory_bytes is None or estimate_memory(plan, shapes, shares=shares).least_bytes <= memory_bytes

    possible = [
        shape
        for shape in possible_shapes(
            num_heads=plan.facts.num_heads,
            tokens_per_frame=plan.tokens_per_frame,
            guided=job.guided,
            num_workers=max(num_workers, _product(asked)),
        )
        if asked.allow(shape)
    ]
    shape = choose_shape(possible, work, machine, num_workers=num_workers, num_films=num_films, fits=fits)
    step_s = step_seconds(work, shape, machine)
    alone_s = step_seconds(work, GroupShape(), machine)
    return GroupChoice(shape=shape, step_s=step_s, efficiency=alone_s / shape.size / step_s, fits=fits(shape))


def _product(asked: AskedDegrees) -> int:
    """The workers that the named degrees take."""
    size = 1
    for degree in asked.degrees:
        size *= degree or 1
    return size
