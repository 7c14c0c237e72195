"""Which workers are in a group that they keep from segment to segment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from render_farm.farm.worker.group_seat import GroupSeat
from render_farm.planning.groups import GroupShape

if TYPE_CHECKING:
    from render_farm.parallel import Rendezvous


@dataclass(frozen=True, kw_only=True)
class _KeptGroup:
    workers: tuple[str, ...]
    """The leader first."""
    seat: GroupSeat
    """The leader's at its last meeting."""


class KeptGroups:
    """The groups whose last segment went well, and whose workers have rendered nothing else since.

    A worker leaves its group by itself as soon as it renders anything else, or fails.
    """

    def __init__(self) -> None:
        self._groups: list[_KeptGroup] = []

    async def seat(
        self,
        workers: tuple[str, ...],
        shape: GroupShape,
        *,
        timeout_s: float,
        open_group: Callable[[], Awaitable[Rendezvous]],
    ) -> GroupSeat:
        """The leader's seat for the next segment of `workers`: in the group that they keep, or in a new one."""
        kept = next((group for group in self._groups if group.workers == workers and group.seat.shape == shape), None)
        self.end(*workers)
        if kept is not None:
            return replace(kept.seat, meeting=kept.seat.meeting + 1)
        return GroupSeat(shape=shape, rank=0, rendezvous=await open_group(), timeout_s=timeout_s)

    def keep(self, workers: tuple[str, ...], seat: GroupSeat) -> None:
        """All of `workers` have rendered a segment together, and are still in their group."""
        self._groups.append(_KeptGroup(workers=workers, seat=seat))

    def end(self, *workers: str) -> None:
        """These workers render something else, so their groups are over."""
        self._groups = [group for group in self._groups if not set(workers) & set(group.workers)]
