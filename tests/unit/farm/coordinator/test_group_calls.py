"""A group's helpers as the coordinator sees them: whose failure it was, who is free, and who has to be ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError

from render_farm.errors import OutOfMemoryError, PreemptedError
from render_farm.farm.coordinator import group_calls as module
from render_farm.farm.coordinator.group_calls import GroupCalls
from render_farm.farm.worker.group_seat import GroupSeat
from render_farm.parallel import BrokenGroupError, GroupError, Rendezvous
from render_farm.planning.groups import GroupShape

PLACE = GroupSeat(shape=GroupShape(ulysses=3), rank=0, rendezvous=Rendezvous(host="h", port=1, name="n"), timeout_s=1.0)
LOST = GroupError("rank 0 lost an exchange")


class Pool:
    """Workers by name; `ends` is what each one's call comes to: a value, an exception, or None for never."""

    def __init__(self, is_there: bool | None = True, **ends: Any) -> None:
        """`is_there` is what the leader says of being in the group. None: it does not answer."""
        self.is_there = is_there
        self.ends = ends
        self.calls = {name: asyncio.Event() for name in ends}
        self.killed: list[str] = []
        self.ended_groups: list[str] = []
        self.on_end: Callable[[], Any] = lambda: None

    def has(self, name: str) -> bool:
        return name not in self.killed

    def handle(self, name: str) -> Any:
        return type("Actor", (), {"help_segment": _Method(self._help, name), "end_group": _Method(self._end, name)})

    def kill(self, name: str) -> None:
        self.killed.append(name)
        if name in self.calls:
            self.calls[name].set()

    async def _help(self, name: str, task: str, place: GroupSeat) -> float:
        end = self.ends[name]
        if end is None:
            await self.calls[name].wait()
            if name in self.killed:
                raise RayActorError
            return 1.0
        if isinstance(end, BaseException):
            raise end
        return end

    async def _end(self, name: str, rendezvous: Rendezvous) -> bool:
        self.ended_groups.append(name)
        self.on_end()
        if self.is_there is None:
            await asyncio.Event().wait()
        return bool(self.is_there)


class _Method:
    def __init__(self, function: Any, name: str) -> None:
        self._function, self._name = function, name

    def remote(self, *arguments: Any) -> Any:
        return self._function(self._name, *arguments)


class Case:
    def __init__(self, pool: Pool) -> None:
        self.pool, self.ended, self.left, self.said = pool, [], [], []
        self.helpers = GroupCalls(
            pool,  # type: ignore[arg-type]
            "leader",
            tuple(pool.ends),
            on_worker_ended=lambda name, error: self.ended.append(name),
            on_left=self.left.append,
            on_engine_time=lambda name, seconds: None,
            warn=self.said.append,
        )
        self.helpers.call(PLACE, "task")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_S", 0.05)
    monkeypatch.setattr(module, "_ANSWER_S", 0.05)


def test_the_failure_of_a_group_is_that_of_the_rank_that_had_one_of_its_own() -> None:
    async def run() -> None:
        full = OutOfMemoryError("does not fit")
        case = Case(Pool(b=LOST, c=full))
        assert await case.helpers.over(1.0) == ()
        assert case.helpers.cause(LOST) == ("c", full)
        own = PreemptedError("asked to end")
        assert case.helpers.cause(own) == ("", own), "the leader's own failure"
        assert case.helpers.ending(LOST) == ()

    asyncio.run(run())


def test_processes_that_a_lost_exchange_broke_are_named() -> None:
    async def run() -> None:
        case = Case(Pool(b=BrokenGroupError("lost"), c=1.0))
        await case.helpers.over(1.0)
        assert case.helpers.ending(BrokenGroupError("lost")) == ("leader", "b")

    asyncio.run(run())


def test_a_helper_that_hangs_is_blamed_and_ended() -> None:
    async def run() -> None:
        case = Case(Pool(b=None, c=LOST))
        assert await case.helpers.over(0.05) == ("b",)
        assert case.helpers.cause(LOST) == ("b", LOST)
        await asyncio.sleep(0.3)
        assert (case.pool.killed, case.ended, case.left) == (["b"], ["b"], ["b"])
        assert "b did not leave its group" in case.said[0]

    asyncio.run(run())


def test_a_helper_that_is_late_is_free_when_it_has_left() -> None:
    async def run() -> None:
        case = Case(Pool(b=None))
        assert await case.helpers.over(5.0) == ("b",)
        case.pool.calls["b"].set()
        await asyncio.sleep(0.1)
        assert (case.pool.killed, case.left) == ([], ["b"])

    asyncio.run(run())


@pytest.mark.parametrize(("is_there", "killed"), [(True, ["leader"]), (None, ["leader"]), (False, [])])
def test_a_leader_that_does_not_leave_is_ended_before_its_first_step_too_unless_it_is_loading_or_storing(
    is_there: bool | None, killed: list[str]
) -> None:
    async def run() -> None:
        case = Case(Pool(is_there, b=LOST))
        await asyncio.sleep(0.3)
        assert case.pool.killed == killed
        assert set(case.pool.ended_groups) == {"leader"}

    asyncio.run(run())


def test_a_leader_is_no_longer_asked_once_its_coordinator_ends() -> None:
    async def run() -> None:
        pool = Pool(False, b=LOST)
        case = Case(pool)
        tasks = case.helpers._background
        pool.on_end = lambda: [asyncio.get_running_loop().call_soon(task.cancel) for task in tasks]
        await asyncio.sleep(0.3)
        assert (pool.ended_groups, tasks) == (["leader"], set())

    asyncio.run(run())


def test_helpers_of_a_leader_that_failed_are_told_to_leave() -> None:
    async def run() -> None:
        case = Case(Pool(b=None, c=1.0))
        await asyncio.sleep(0.01)
        await case.helpers.over(1.0, failed=True)
        assert case.pool.ended_groups == ["b"]

    asyncio.run(run())


def test_a_leader_that_died_is_not_blamed_for_what_a_helper_reports() -> None:
    async def run() -> None:
        full, death = OutOfMemoryError("does not fit"), RayActorError()
        case = Case(Pool(b=RayActorError(), c=full))
        await case.helpers.over(1.0, failed=True)
        assert case.helpers.cause(death) == ("c", full)
        assert case.helpers.ending(death) == ("leader", "b")
        alone = Case(Pool(b=RayActorError()))
        await alone.helpers.over(1.0, failed=True)
        assert alone.helpers.cause(death) == ("", death), "nobody says what it died of"

    asyncio.run(run())
