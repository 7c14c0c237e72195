"""`GroupShape`: how the workers of a render group divide a segment; which shapes a job can have, and which is best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from render_farm.errors import Problem

if TYPE_CHECKING:
    from render_farm.planning.facts import ModelFacts
    from render_farm.planning.group_cost import GroupMachine, StepWork
    from render_farm.planning.resolve import ResolvedJob

MOST_WORKERS = 16
"""Of one group."""
_WORTH = 0.5
"""The least efficiency (time on one worker / number / time of the group) at which a larger group is chosen."""


@dataclass(frozen=True, kw_only=True)
class GroupShape:
    """Degrees of a group; their product is its number of workers."""

    cfg: int = 1
    """2: the two guidance branches are computed side by side."""
    ulysses: int = 1
    """Workers that share out the attention heads."""
    ring: int = 1
    """Workers that pass keys and values around."""

    @property
    def size(self) -> int:
        return self.cfg * self.ulysses * self.ring

    @property
    def sequence(self) -> int:
        """Workers that share out the tokens of one guidance branch."""
        return self.ulysses * self.ring

    @property
    def degrees(self) -> tuple[int, int, int]:
        """(cfg, ulysses, ring), as a segment's record has it."""
        return (self.cfg, self.ulysses, self.ring)

    def __str__(self) -> str:
        return f"cfg {self.cfg} x ulysses {self.ulysses} x ring {self.ring}"


def group_of(job: ResolvedJob) -> GroupShape:
    """The shape that a job asks for; what it leaves null is 1, and so is cfg where guidance is off."""
    return GroupShape(cfg=(job.cfg_parallel or 1) if job.guided else 1, ulysses=job.ulysses or 1, ring=job.ring or 1)


def check_group(job: ResolvedJob, facts: ModelFacts) -> Iterator[Problem]:
    """Degrees that no group can have, with the nearest that one can."""
    shape, heads = group_of(job), facts.num_heads
    if heads % shape.ulysses:
        works = [degree for degree in range(1, heads + 1) if heads % degree == 0]
        below = max(degree for degree in works if degree < shape.ulysses)
        above = [degree for degree in works if degree > shape.ulysses]
        nearest = f"{below} or {above[0]}" if above else str(below)
        yield Problem(
            field="ulysses",
            message=f"{shape.ulysses} does not divide the {heads} attention heads of {facts.name}; {nearest} would "
            f"work (or ring {shape.ulysses}, which needs no heads)",
        )
    elif shape.size > MOST_WORKERS:
        most = max(1, MOST_WORKERS // (shape.size // shape.ring))
        field, degree = (
            ("ring", most) if shape.ring > 1 else ("ulysses", _most_ulysses(heads, MOST_WORKERS // shape.cfg))
        )
        yield Problem(
            field=field,
            message=f"{shape} are {shape.size} workers for one segment, and the most is {MOST_WORKERS}; "
            f"{field} {degree} would work",
        )
    else:
        tokens = (job.height // facts.spatial_factor // facts.patch) * (
            job.width // facts.spatial_factor // facts.patch
        )
        if tokens and shape.sequence > tokens:
            field = "ring" if shape.ring > 1 else "ulysses"
            yield Problem(
                field=field,
                message=f"{shape.sequence} workers cannot share the {tokens} tokens of a latent frame of "
                f"{job.height}x{job.width}; ulysses x ring of at most {tokens} would work",
            )


def _most_ulysses(heads: int, limit: int) -> int:
    return max(degree for degree in range(1, min(heads, limit) + 1) if heads % degree == 0)


def possible_shapes(*, num_heads: int, tokens_per_frame: int, guided: bool, num_workers: int) -> list[GroupShape]:
    """Every shape of at most `num_workers`, those that need no ring and split the branches first."""
    shapes = [
        GroupShape(cfg=cfg, ulysses=ulysses, ring=ring)
        for cfg in ((1, 2) if guided else (1,))
        for ulysses in range(1, num_heads + 1)
        for ring in range(1, num_workers + 1)
        if num_heads % ulysses == 0
        and cfg * ulysses * ring <= min(num_workers, MOST_WORKERS)
        and ulysses * ring <= tokens_per_frame
    ]
    return sorted(shapes, key=lambda shape: (shape.ring, -shape.cfg, shape.size))


def best_shape(shapes: list[GroupShape], work: StepWork, machine: GroupMachine) -> GroupShape:
    """The fastest of `shapes` by the cost model, among those that use their workers well enough.

    Between equally fast ones the first is taken. One worker is always good enough.
    """
    from render_farm.planning.group_cost import step_seconds

    alone = step_seconds(work, GroupShape(), machine)
    times = {shape: step_seconds(work, shape, machine) for shape in shapes}
    worth = [shape for shape in shapes if alone / (shape.size * times[shape]) >= _WORTH]
    return min(worth, key=lambda shape: times[shape], default=GroupShape())
