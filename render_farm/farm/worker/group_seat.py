"""A worker's seat in the render group of one segment, and where the group meets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from render_farm.planning.groups import GroupShape

if TYPE_CHECKING:
    from render_farm.engine import Engine
    from render_farm.engine.lora.branches import WeightedLora
    from render_farm.parallel import ParallelGroup, ProcessGroups, Rendezvous, RendezvousHost
    from render_farm.planning import FilmPlan


@dataclass(frozen=True, kw_only=True)
class GroupSeat:
    """Sent to each worker of the group with the segment."""

    shape: GroupShape
    rank: int
    rendezvous: Rendezvous
    timeout_s: float
    """Of every exchange."""
    meeting: int = 0
    """Segments that this group has rendered before. It is formed for the first one, and kept."""


class GroupHost:
    """Hosts the group of a worker's next segments, of which it is rank 0, and knows the group that it is in."""

    def __init__(self) -> None:
        self._host: RendezvousHost | None = None
        self.joined: ProcessGroups | None = None
        """The group that has met, while this worker is in it."""

    @property
    def is_open(self) -> bool:
        return self._host is not None

    def open(self) -> Rendezvous:
        """Where a new group meets. The one before is closed."""
        from render_farm.parallel import RendezvousHost

        self.close()
        self._host = RendezvousHost()
        return self._host.rendezvous

    def close(self, rendezvous: Rendezvous | None = None) -> None:
        """End the group that meets at `rendezvous`, or whichever there is. Workers that wait there get a
        `GroupError`."""
        host = self._host
        if host is None or rendezvous not in (None, host.rendezvous):
            return
        self._host = None
        host.close()

    def end(self, rendezvous: Rendezvous) -> bool:
        """End the group that meets at `rendezvous`. Its exchanges fail here. Returns whether this worker is in it."""
        self.close(rendezvous)
        joined = self.joined
        if joined is None or joined.seat.rendezvous != rendezvous:
            return False
        joined.abort()
        return True


@contextmanager
def in_group(
    seat: GroupSeat | None,
    engine: Engine,
    plan: FilmPlan,
    segment: int,
    host: GroupHost,
    *,
    loras: Sequence[WeightedLora],
    first_step_s: float,
) -> Iterator[ParallelGroup | None]:
    """Be in the group for the length of a block. None without a seat. What takes long (weights, compiling) is done
    before the others wait.

    `first_step_s` is how long the others may take to come, and for an exchange until the group is told another limit.
    Afterwards the group is kept for its next meeting, unless there was an error. Raises `GroupError` when one does not
    come, fails or hangs.
    """
    import torch

    from render_farm.parallel import GroupError, ParallelGroup, ProcessGroups, Seat

    if seat is None:
        ProcessGroups.leave_kept()
        yield None
        return
    from render_farm.parallel.xfuser_modules import xfuser

    xfuser()
    taken = Seat(shape=seat.shape, rank=seat.rank, rendezvous=seat.rendezvous)
    timeout_s = max(first_step_s, seat.timeout_s)
    ProcessGroups.leave_kept(unless=taken)  # it holds memory of the device
    with torch.inference_mode():
        engine.warm_up(plan, segment, seat.shape, loras)
    joined = ProcessGroups.again(taken, seat.meeting, timeout_s=timeout_s)
    if joined is None and seat.meeting:
        raise GroupError(f"rank {seat.rank} has left the group of {seat.shape.size}")
    try:
        with joined or ProcessGroups(taken, device=engine.device, timeout_s=timeout_s) as groups:
            host.joined = groups
            yield ParallelGroup(groups)
            groups.keep()
    finally:
        host.joined = None
