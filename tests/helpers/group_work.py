"""Workers that render a segment together, one process per rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.farm.worker.group_seat import GroupSeat
from render_farm.planning.groups import GroupShape, group_of
from render_farm.storage.checkpoints import load_film
from render_farm.storage.open import open_store
from tests.helpers.ranks import RankFailed, RankPool


@cache
def worker(name: str, output: str) -> FilmWorker:
    return FilmWorker(name)


def worker_of(rank: int, task: FilmTask) -> FilmWorker:
    """The rank's worker for an output: the same film in two of them would be one to a worker."""
    return worker(f"w{rank}", task.output)


def open_group(rank: int, task: FilmTask) -> Any:
    return worker_of(rank, task).open_group()


def render(rank: int, task: FilmTask, segment: int, seat: GroupSeat) -> tuple[float, int]:
    """Lead; returns seconds and the identity of the weights."""
    started, here = time.monotonic(), worker_of(rank, task)
    here.render_segment(task, segment, call_id=segment, seat=seat)
    return time.monotonic() - started, id(here._model.engine(task).transformer)


def help_out(rank: int, task: FilmTask, segment: int, seat: GroupSeat, strike: Callable[[], None] | None) -> int:
    here = worker_of(rank, task)
    if strike is not None:
        strike()
    here.help_segment(task, segment, call_id=segment, seat=seat)
    return id(here._model.engine(task).transformer)


def new_seat(pool: RankPool, task: FilmTask, leader: int, *, shape: GroupShape | None = None) -> GroupSeat:
    """The leader's in a group that is to be formed."""
    pool.send(leader, open_group, (leader, task))
    shape = shape or group_of(task.plan.job)
    return GroupSeat(shape=shape, rank=0, rendezvous=pool.result(leader), timeout_s=30.0)


def together(
    pool: RankPool,
    task: FilmTask,
    segment: int,
    *ranks: int,
    shape: GroupShape | None = None,
    lead: Callable[..., Any] = render,
    strike: Callable[[], None] | None = None,
    kept: GroupSeat | None = None,
) -> list[Any]:
    """Have workers render a segment, led by the first; what each returned or raised. The last of them is struck. In the
    group of `kept`, or in a new one."""
    leader = ranks[0]
    led = kept or new_seat(pool, task, leader, shape=shape)
    for number, rank in enumerate(ranks):
        seat = replace(led, rank=number)
        if rank == leader:
            pool.send(leader, lead, (leader, task, segment, seat))
        else:
            pool.send(rank, help_out, (rank, task, segment, seat, strike if rank == ranks[-1] else None))
    answers: list[Any] = []
    for rank in ranks:
        try:
            answers.append(pool.result(rank))
        except (RankFailed, EOFError) as error:
            answers.append(error)
    return answers


def stored(task: FilmTask) -> np.ndarray:
    return np.concatenate(load_film(open_store(task.output), task.work_key).latents, axis=2)


def render_alone(rank: int, task: FilmTask, segment: int) -> None:
    worker_of(rank, task).render_segment(task, segment)
