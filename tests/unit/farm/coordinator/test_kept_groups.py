"""Groups that their workers keep from segment to segment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from render_farm.farm.coordinator.kept_groups import KeptGroups
from render_farm.farm.worker.group_seat import GroupSeat
from render_farm.parallel import Rendezvous
from render_farm.planning.groups import GroupShape

PAIR = GroupShape(ulysses=2)


class Case:
    def __init__(self) -> None:
        self.groups, self.num_opened = KeptGroups(), 0

    async def render(self, *workers: str, shape: GroupShape = PAIR, keeps: bool = True) -> GroupSeat:
        seat = await self.groups.seat(workers, shape, timeout_s=1.0, open_group=self._open)
        if keeps:
            self.groups.keep(workers, seat)
        return seat

    async def _open(self) -> Rendezvous:
        self.num_opened += 1
        return Rendezvous(host="h", port=self.num_opened, name="n")


def run(test: Callable[[Case], Any]) -> None:
    asyncio.run(test(Case()))


def test_the_same_workers_in_the_same_shape_meet_again_in_their_group() -> None:
    async def test(case: Case) -> None:
        seats = [await case.render("a", "b") for _ in range(3)]
        assert [seat.meeting for seat in seats] == [0, 1, 2]
        assert len({seat.rendezvous for seat in seats}) == case.num_opened == 1
        assert (await case.render("a", "b", shape=GroupShape(ring=2))).meeting == 0
        assert (await case.render("b", "a", shape=GroupShape(ring=2))).meeting == 0, "each has another rank"
        assert case.num_opened == 3

    run(test)


def test_a_group_is_over_when_one_of_its_workers_renders_anything_else_or_fails() -> None:
    async def test(case: Case) -> None:
        await case.render("a", "b")
        await case.render("c", "d")
        case.groups.end("b")
        assert (await case.render("a", "b")).meeting == 0
        assert (await case.render("c", "d")).meeting == 1, "others keep theirs"
        await case.render("b", "c", keeps=False)
        assert (await case.render("a", "b")).meeting == 0
        assert (await case.render("c", "d")).meeting == 0
        await case.render("a", "b", keeps=False)  # it fails
        assert (await case.render("a", "b")).meeting == 0

    run(test)
