"""Workers that render a film's segments together, without Ray: a process each."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from render_farm import load_engine
from render_farm.farm.film_task import FilmTask
from render_farm.farm.film_worker import FilmWorker
from render_farm.farm.group_place import Place
from render_farm.planning.groups import group_of
from render_farm.storage.checkpoints import load_film
from render_farm.storage.store import open_store
from tests.farm.test_film_worker import film_task
from tests.parallel.ranks import RankFailed, RankPool, rank_pool


@pytest.fixture(scope="module")
def engine() -> Any:
    return load_engine("tiny", device="cpu")


@pytest.fixture
def pool() -> Iterator[RankPool]:
    with rank_pool(3) as ranks:
        yield ranks


@cache
def worker(name: str, output: str) -> FilmWorker:
    return FilmWorker(name)


# --- what the processes do ---


def worker_of(rank: int, task: FilmTask) -> FilmWorker:
    """The rank's worker for an output: the same film in two of them would be one to a worker."""
    return worker(f"w{rank}", task.output)


def open_group(rank: int, task: FilmTask) -> Any:
    return worker_of(rank, task).open_group()


def render(rank: int, task: FilmTask, segment: int, place: Place) -> tuple[float, int]:
    """Lead; returns seconds and the identity of the weights."""
    started, here = time.monotonic(), worker_of(rank, task)
    here.render_segment(task, segment, work=segment, place=place)
    return time.monotonic() - started, id(here._engine.transformer)


def help_out(rank: int, task: FilmTask, segment: int, place: Place, kill_at_s: float | None = None) -> int:
    here = worker_of(rank, task)
    if kill_at_s is not None:
        threading.Timer(kill_at_s, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    here.help_segment(task, segment, work=segment, place=place)
    return id(here._engine.transformer)


def stop_soon(rank: int, task: FilmTask, place: Place) -> None:
    here = worker_of(rank, task)
    here.stop(0)
    here.render_segment(task, 0, work=0, place=place)


# --- the tests ---


def together(pool: RankPool, task: FilmTask, segment: int, leader: int, helper: int, **more: Any) -> list[Any]:
    """Have two workers render a segment; what each returned or raised."""
    pool.send(leader, open_group, (leader, task))
    rendezvous = pool.result(leader)
    shape = group_of(task.plan.job)
    places = [Place(shape=shape, rank=rank, rendezvous=rendezvous, timeout_s=30.0) for rank in (0, 1)]
    pool.send(leader, more.get("lead", render), (leader, task, *([] if "lead" in more else [segment]), places[0]))
    pool.send(helper, help_out, (helper, task, segment, places[1], more.get("kill_at_s")))
    answers: list[Any] = []
    for rank in (leader, helper):
        try:
            answers.append(pool.result(rank))
        except (RankFailed, EOFError) as error:
            answers.append(error)
    return answers


def stored(task: FilmTask) -> np.ndarray:
    return np.concatenate(load_film(open_store(task.output), task.film).latents, axis=2)


def alone(task: FilmTask) -> np.ndarray:
    here = FilmWorker("alone")
    for segment in range(3):
        here.render_segment(task, segment)
    here.close()
    return stored(task)


def test_a_group_renders_a_film_and_loads_its_weights_once(engine, pool, tmp_path: Path) -> None:
    task = film_task(engine, tmp_path / "group", ulysses=2, height=64, width=64)
    answers = [together(pool, task, segment, 0, 1) for segment in range(3)]
    assert len({weights for (_, weights), _ in answers}) == len({weights for _, weights in answers}) == 1
    state = load_film(open_store(task.output), task.film).state
    assert [segment.group_shape for segment in state.segments] == [(1, 2, 1)] * 3
    assert np.abs(stored(task) - alone(film_task(engine, tmp_path / "alone", height=64, width=64))).max() <= 1e-4


def test_a_killed_rank_fails_its_segment_and_another_group_renders_the_same_bits(engine, pool, tmp_path: Path) -> None:
    calm = film_task(engine, tmp_path / "calm", ring=2, num_inference_steps=60, height=64, width=64)
    for segment in range(3):
        together(pool, calm, segment, 0, 1)
    task = film_task(engine, tmp_path / "struck", ring=2, num_inference_steps=60, height=64, width=64)
    together(pool, task, 0, 0, 1)
    led, helped = together(pool, task, 1, 0, 1, kill_at_s=0.5)
    assert "GroupError" in str(led) and isinstance(helped, EOFError)
    for segment in (1, 2):
        assert isinstance(together(pool, task, segment, 0, 2)[0], tuple)
    assert np.array_equal(stored(task), stored(calm))


def test_a_stopped_group_stops_at_one_step_on_all_ranks(engine, pool, tmp_path: Path) -> None:
    task = film_task(engine, tmp_path, ulysses=2, height=64, width=64)
    led, helped = together(pool, task, 0, 0, 1, lead=stop_soon)
    assert "Cancelled" in str(led) and "stopped at step 1" in str(led)
    assert "GroupError" in str(helped) and "stopped at step 1" in str(helped)


def lead_alone(rank: int, task: FilmTask, place: Place) -> None:
    here = worker_of(rank, task)
    threading.Timer(3.0, lambda: here.end_group(place.rendezvous)).start()
    here.render_segment(task, 0, work=0, place=place)


def test_a_leader_does_not_wait_for_a_worker_that_will_not_come(engine, pool, tmp_path: Path) -> None:
    task = film_task(engine, tmp_path, ulysses=2, height=64, width=64)
    pool.send(0, open_group, (0, task))
    place = Place(shape=group_of(task.plan.job), rank=0, rendezvous=pool.result(0), timeout_s=30.0)
    pool.send(0, lead_alone, (0, task, place))
    with pytest.raises(RankFailed, match=r"could not join|failed before it began"):
        pool.result(0, patience_s=100)


def test_a_helper_does_not_wait_for_a_leader_that_is_gone(engine, pool, tmp_path: Path) -> None:
    """The leader found the segment stored, and went on."""
    task = film_task(engine, tmp_path, ulysses=2, height=64, width=64)
    together(pool, task, 0, 0, 1)
    led, helped = together(pool, task, 0, 0, 1)
    assert isinstance(led, tuple), led
    assert "could not join" in str(helped) or "expected in storage" in str(helped) or isinstance(helped, int)
    assert isinstance(together(pool, task, 1, 0, 1)[0], tuple)
