"""`GroupShape`: how the workers of a render group divide a segment; which shapes a job can have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log
from typing import TYPE_CHECKING

from render_farm.errors import Problem

if TYPE_CHECKING:
    from render_farm.planning.model_spec import ModelSpec
    from render_farm.planning.resolve import ResolvedJob

MOST_WORKERS = 16
"""Of one group."""


@dataclass(frozen=True, kw_only=True, slots=True)
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

    def shares_first_layer(self, num_heads: int) -> bool:
        """Whether the two halves share out the first layer's self-attention, by heads (`parallel.first_layer`)."""
        return self.cfg == 2 and num_heads % 2 == 0 and num_heads // 2 % self.ulysses == 0

    @property
    def degrees(self) -> tuple[int, int, int]:
        """(cfg, ulysses, ring), as a segment's record has it."""
        return (self.cfg, self.ulysses, self.ring)

    def __str__(self) -> str:
        return f"cfg {self.cfg} x ulysses {self.ulysses} x ring {self.ring}"


def group_of(job: ResolvedJob) -> GroupShape:
    """The shape that a job asks for. Null degrees are 1, and cfg is 1 where guidance is off."""
    return GroupShape(cfg=(job.cfg_parallel or 1) if job.guided else 1, ulysses=job.ulysses or 1, ring=job.ring or 1)


def check_group(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    """Degrees that no group can have, with the nearest that one can."""
    if job.cfg_parallel == 2 and job.is_guided_in_part:
        yield Problem(
            field="cfg_parallel",
            message=f"2 would leave half of the group idle in the steps for which cache {job.cache} leaves out a "
            "guidance branch; ulysses 2 with cfg_parallel 1 uses all of it",
        )
        return
    asked, heads = group_of(job), spec.num_heads
    rows, columns = (size // spec.spatial_factor // spec.patch for size in (job.height, job.width))
    works = possible_shapes(
        num_heads=heads, tokens_per_frame=max(1, rows * columns), guided=job.splits_branches, num_workers=MOST_WORKERS
    )
    if asked in works:
        return
    widest = "ring" if asked.ring > 1 else "ulysses"
    if heads and heads % asked.ulysses:
        field, why = "ulysses", f"{asked.ulysses} does not divide the {heads} attention heads of {spec.name}"
    elif asked.size > MOST_WORKERS:
        field, why = widest, f"{asked} are {asked.size} workers for one segment, and the most is {MOST_WORKERS}"
    else:
        field = widest
        why = (
            f"{asked.sequence} workers cannot share the {rows * columns} tokens of a latent frame of "
            f"{job.height}x{job.width}"
        )
    yield Problem(field=field, message=f"{why}; {_alternatives(asked, field, works)}")


def _alternatives(asked: GroupShape, field: str, works: Sequence[GroupShape]) -> str:
    """The next values of `field` that go with the other degrees; where none does, the nearest shape."""
    beside = " or ".join(map(str, nearest_degrees(asked, field, works)))
    if not beside:
        return f"{nearest_shape(asked, works)} would work"
    is_split_by_heads = field == "ulysses" and asked.size <= MOST_WORKERS
    without_heads = GroupShape(cfg=asked.cfg, ring=asked.sequence)
    if is_split_by_heads and without_heads in works:
        return f"{beside} would work (or ring {without_heads.ring} without ulysses, which needs no heads)"
    return f"{beside} would work" if is_split_by_heads else f"{field} {beside} would work"


def nearest_degrees(asked: GroupShape, field: str, works: Iterable[GroupShape]) -> list[int]:
    """The next smaller and the next larger degree of `field` (`ulysses` or `ring`) with which `asked` is in `works`."""
    given = getattr(asked, field)
    fitting = {getattr(shape, field) for shape in works if replace(asked, **{field: getattr(shape, field)}) == shape}
    below = max((degree for degree in fitting if degree < given), default=None)
    above = min((degree for degree in fitting if degree > given), default=None)
    return [degree for degree in (below, above) if degree is not None]


def nearest_shape(asked: GroupShape, works: Iterable[GroupShape]) -> GroupShape:
    """The one of `works` whose degrees differ least from those asked for, as ratios; of equal ones the larger."""
    return min(
        works,
        key=lambda shape: (
            round(sum(abs(log(a / b)) for a, b in zip(shape.degrees, asked.degrees, strict=True)), 9),
            -shape.size,
        ),
    )


@cache
def possible_shapes(*, num_heads: int, tokens_per_frame: int, guided: bool, num_workers: int) -> tuple[GroupShape, ...]:
    """Every shape of at most `num_workers`, those that need no ring and split the branches first. `num_heads` 0 is a
    model whose heads are not known: any Ulysses degree may do."""
    shapes = [
        GroupShape(cfg=cfg, ulysses=ulysses, ring=ring)
        for cfg in ((1, 2) if guided else (1,))
        for ulysses in range(1, (num_heads or num_workers) + 1)
        for ring in range(1, num_workers + 1)
        if num_heads % ulysses == 0
        and cfg * ulysses * ring <= min(num_workers, MOST_WORKERS)
        and ulysses * ring <= tokens_per_frame
    ]
    return tuple(sorted(shapes, key=lambda shape: (shape.ring, -shape.cfg, shape.size)))
