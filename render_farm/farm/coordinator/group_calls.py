"""The calls of a render group's helpers, made alongside that of its leader, and whose failure ended the group.

A worker is free when its own call has ended. A leader that is gone, or a helper that stays in a group that is over, is
ended: in an exchange each would wait for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from render_farm.farm.coordinator.worker_pool import WorkerPool
from render_farm.farm.ray_cluster.deaths import is_death
from render_farm.farm.worker.group_seat import GroupSeat

if TYPE_CHECKING:
    from render_farm.parallel import Rendezvous

LEAVE_S = 20.0
"""How long a rank may stay in a group after another has failed in it or it is over."""
_ANSWER_S = 5.0
"""How long a leader's answer is kept back for those of its helpers."""
_OF_THE_GROUP = ("GroupError", "BrokenGroupError")
"""What a rank raises because of another's failure."""


class GroupCalls:
    """One group's helpers. `on_worker_ended` reports a helper whose process ended, `on_left` one that left late."""

    def __init__(
        self,
        pool: WorkerPool,
        leader: str,
        names: tuple[str, ...],
        *,
        on_worker_ended: Callable[[str, BaseException], None],
        on_left: Callable[[str], None],
        on_engine_time: Callable[[str, float], None],
        warn: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._leader = leader
        self._names = names
        self._on_worker_ended = on_worker_ended
        self._on_left = on_left
        self._on_engine_time = on_engine_time
        self._warn = warn
        self._calls: dict[str, asyncio.Task[Any]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._errors: dict[str, BaseException] = {}
        self._is_over = False
        self._is_ending = False

    def call(self, leader_seat: GroupSeat, *arguments: Any) -> None:
        """Have each helper take its seat: ranks 1, 2 ... in order."""
        self._rendezvous = leader_seat.rendezvous
        for rank, name in enumerate(self._names, start=1):
            self._calls[name] = asyncio.create_task(self._help(name, replace(leader_seat, rank=rank), *arguments))

    async def _help(self, name: str, seat: GroupSeat, *arguments: Any) -> None:
        try:
            if self._pool.has(name):
                engine_s = await self._pool.handle(name).help_segment.remote(*arguments, seat)
                self._on_engine_time(name, engine_s)
                return
        except Exception as error:  # noqa: BLE001  (the leader's failure is told by it, see `cause`)
            self._errors[name] = error
            if is_death(error):
                self._on_worker_ended(name, error)
        if not self._is_ending:
            self._is_ending = True
            self._in_background(self._end_leader(seat.rendezvous))

    async def _end_leader(self, rendezvous: Rendezvous) -> None:
        """Have the leader leave the group, in which it waits for a rank that failed. It hangs when it is still there
        after some seconds, or does not answer. Before the group has met it may load for minutes."""
        was_there = False
        while not self._is_over and self._pool.has(self._leader):
            is_there = await self._end_group(self._leader, rendezvous)
            if is_there and was_there and not self._is_over:
                self._kill(self._leader)
                return
            was_there = is_there
            await asyncio.sleep(LEAVE_S)

    async def _end_group(self, name: str, rendezvous: Rendezvous) -> bool:
        """Have a rank's exchanges fail. Returns whether it is in the group, or does not answer."""
        try:
            async with asyncio.timeout(LEAVE_S):  # Python 3.11's `wait_for` may lose a cancellation
                return bool(await self._pool.handle(name).end_group.remote(rendezvous))
        except TimeoutError:
            return True
        except Exception as error:  # noqa: BLE001  (its own call tells of it)
            return not is_death(error)

    def _kill(self, name: str) -> None:
        if self._pool.has(name):
            self._warn(f"worker {name} did not leave its group within {LEAVE_S:.0f} s of its end; it is killed")
            self._pool.kill(name)

    async def over(self, leave_s: float, *, failed: bool = False) -> tuple[str, ...]:
        """The leader's call has ended. Returns those who have not left after some seconds; what is still there
        `leave_s` later is ended. Where it has `failed`, the helpers are told to leave."""
        self._is_over = True
        if not self._calls:
            return ()
        for name, call in self._calls.items():
            if failed and not call.done() and self._pool.has(name):
                self._in_background(self._end_group(name, self._rendezvous))
        await asyncio.wait(self._calls.values(), timeout=_ANSWER_S)
        staying = tuple(name for name, call in self._calls.items() if not call.done())
        for name in staying:
            self._in_background(self._leave(name, leave_s))
        return staying

    async def _leave(self, name: str, within_s: float) -> None:
        await asyncio.wait([self._calls[name]], timeout=within_s)
        if not self._calls[name].done():
            self._kill(name)
        await asyncio.wait([self._calls[name]])
        self._on_left(name)

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    @property
    def went_well(self) -> bool:
        """Whether all helpers have rendered their share."""
        return not self._errors and all(call.done() for call in self._calls.values())

    def cause(self, error: BaseException) -> tuple[str, BaseException]:
        """The worker whose failure the leader reports as `error`, and that failure. "" for the leader itself.

        A leader whose process ended may have waited for a helper that failed, and is not blamed then.
        """
        died = is_death(error)
        if _name(error) not in _OF_THE_GROUP and not died:
            return "", error
        for name, found in self._errors.items():
            if _name(found) not in _OF_THE_GROUP and not (died and is_death(found)):
                return name, found
        if died:
            return "", error
        silent = next((name for name, call in self._calls.items() if not call.done()), "")
        return silent, error

    def ending(self, error: BaseException) -> tuple[str, ...]:
        """Workers of the group whose processes must end or did, when the leader failed with `error`."""
        failed = {self._leader: error, **self._errors}
        return tuple(name for name, found in failed.items() if _name(found) == "BrokenGroupError" or is_death(found))


def _name(error: BaseException) -> str:
    return type(getattr(error, "cause", None) or error).__name__
