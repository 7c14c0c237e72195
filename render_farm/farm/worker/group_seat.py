"""A worker's seat in the render group of one segment, and where the group meets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from render_farm.planning.groups import GroupShape

if TYPE_CHECKING:
    from render_farm.engine import Engine
    from render_farm.parallel import ParallelGroup, Rendezvous, RendezvousHost


@dataclass(frozen=True, kw_only=True)
class GroupSeat:
    """Sent to each worker of the group with the segment."""

    shape: GroupShape
    rank: int
    rendezvous: Rendezvous
    timeout_s: float
    """Of every exchange."""


class GroupHost:
    """Hosts the group of a worker's next segment. The worker is its rank 0."""

    def __init__(self) -> None:
        self._host: RendezvousHost | None = None

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


@contextmanager
def in_group(seat: GroupSeat | None, engine: Engine, *, meeting_s: float) -> Iterator[ParallelGroup | None]:
    """Be in the group for the length of a block. None without a seat. Weights are loaded before the others wait.

    `meeting_s` is how long the others may take to come. Raises `GroupError` when one does not come, fails or hangs.
    """
    if seat is None:
        yield None
        return
    from render_farm.parallel import ParallelGroup, ProcessGroups, Seat
    from render_farm.parallel.xfuser_modules import xfuser

    xfuser()
    _ = engine.transformer
    taken = Seat(shape=seat.shape, rank=seat.rank, rendezvous=seat.rendezvous)
    with ProcessGroups(taken, device=engine.device, timeout_s=seat.timeout_s, meeting_s=meeting_s) as groups:
        yield ParallelGroup(groups)
