"""A worker's place in the render group of one segment, and its being there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from render_farm.planning.groups import GroupShape

if TYPE_CHECKING:
    from render_farm.engine import Engine
    from render_farm.parallel import ParallelGroup, Rendezvous


@dataclass(frozen=True, kw_only=True)
class GroupSeat:
    """Sent to each worker of the group with the segment."""

    shape: GroupShape
    rank: int
    rendezvous: Rendezvous
    timeout_s: float
    """Of every exchange."""


@contextmanager
def in_group(place: GroupSeat | None, engine: Engine, *, meeting_s: float) -> Iterator[ParallelGroup | None]:
    """Be in the group for the length of a block; None without a place. Weights are loaded before the others wait.

    `meeting_s` is how long the others may take to come. Raises `GroupError` when one does not come, fails or hangs.
    """
    if place is None:
        yield None
        return
    from render_farm.parallel import ParallelGroup, ProcessGroups, Seat
    from render_farm.parallel.xfuser_modules import xfuser

    xfuser()
    _ = engine.transformer
    seat = Seat(shape=place.shape, rank=place.rank, rendezvous=place.rendezvous)
    with ProcessGroups(seat, device=engine.device, timeout_s=place.timeout_s, meeting_s=meeting_s) as groups:
        yield ParallelGroup(groups)
