"""A pool of rank processes, started once a module: forked from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from render_farm.parallel import GroupShape, ParallelGroup, ProcessGroups, RendezvousHost, Seat

TIMEOUT_S = 60.0
PATIENCE_S = 240.0


class RankFailed(Exception):
    """What a rank raised, as text."""


class RankPool:
    """`num_ranks` processes, each with a folder of state (`Rank`) that its calls share."""

    def __init__(self, num_ranks: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.helpers.preload"])
        self.processes = []
        self._pipes = []
        found_by = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        with patch.dict(os.environ, PYTHONPATH=found_by):
            for rank in range(num_ranks):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(rank, there), daemon=True)
                process.start()
                there.close()
                self.processes.append(process)
                self._pipes.append(here)

    def send(self, rank: int, function: Callable[..., Any], arguments: tuple) -> None:
        """Have one rank call `function(*arguments)`."""
        self._pipes[rank].send((function, arguments))

    def start(self, function: Callable[..., Any], arguments: list[tuple]) -> None:
        """Have the first `len(arguments)` ranks call `function(rank, *arguments[rank])`."""
        for pipe, given in zip(self._pipes, arguments, strict=False):
            pipe.send((function, given))

    def result(self, rank: int, patience_s: float = PATIENCE_S) -> Any:
        """What the rank returned; raises `RankFailed` with what it raised, `EOFError` when it died."""
        assert self._pipes[rank].poll(patience_s), f"rank {rank} did not answer"
        is_good, value = self._pipes[rank].recv()
        if not is_good:
            raise RankFailed(value)
        return value

    def call(self, function: Callable[..., Any], arguments: list[tuple]) -> list[Any]:
        """What each rank returned; raises what the first of those that failed raised, once all have answered."""
        self.start(function, arguments)
        answers, failures = [], []
        for rank in range(len(arguments)):
            try:
                answers.append(self.result(rank))
            except (RankFailed, EOFError) as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return answers

    def in_group(
        self, shape: GroupShape, function: Callable[..., Any], *arguments: Any, timeout_s: float = TIMEOUT_S
    ) -> list[Any]:
        """`function(group, *arguments)` on each rank of a group of `shape`, which is formed for it."""
        host = RendezvousHost(timeout_s=timeout_s)
        try:
            given = (shape, host.rendezvous, timeout_s, function, arguments)
            return self.call(_in_group, [(rank, *given) for rank in range(shape.size)])
        finally:
            host.close()

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self.processes, strict=True):
            pipe.close()
            process.join(10)
            process.kill()


@contextmanager
def rank_pool(num_ranks: int) -> Iterator[RankPool]:
    pool = RankPool(num_ranks)
    try:
        yield pool
    finally:
        pool.close()


def _serve(rank: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            function, given = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(*given)))
        except BaseException:  # noqa: BLE001  (the test that waits for it shall see whatever it was)
            pipe.send((False, traceback.format_exc()))


def _in_group(rank: int, shape: GroupShape, rendezvous: Any, timeout_s: float, function: Any, arguments: tuple) -> Any:
    seat = Seat(shape=shape, rank=rank, rendezvous=rendezvous)
    with ProcessGroups(seat, device=torch.device("cpu"), timeout_s=timeout_s) as groups:
        return function(ParallelGroup(groups), *arguments)
