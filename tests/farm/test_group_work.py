"""Workers that render a film's segments together, without Ray: a process each."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from render_farm import load_engine
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.memory_steps import with_memory_fallback
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.farm.worker.group_seat import GroupSeat
from render_farm.media.whole_video import read_video
from render_farm.parallel import ParallelGroup
from render_farm.planning.group_options import GroupOptions
from render_farm.planning.groups import GroupShape, group_of
from render_farm.storage.checkpoints import load_film
from render_farm.storage.open import open_store
from tests.helpers.film_tasks import film_task
from tests.helpers.group_work import new_seat, open_group, render_alone, stored, together, worker_of
from tests.helpers.ranks import RankFailed, RankPool, rank_pool


@pytest.fixture(scope="module")
def engine() -> Any:
    return load_engine("tiny", device="cpu")


@pytest.fixture
def pool() -> Iterator[RankPool]:
    with rank_pool(3) as ranks:
        yield ranks


# --- what the processes do ---


def die_soon() -> None:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()


def run_out_of_memory() -> None:
    """At the second exchange of predictions, once."""
    gather, left = ParallelGroup.gather, iter(range(2))

    def full(group: ParallelGroup, *given: Any) -> Any:
        if next(left, 0) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gather(group, *given)

    ParallelGroup.gather = full  # type: ignore[method-assign]


def waits_when_it_leaves() -> None:
    """Ending the groups waits for an exchange that never ends, as it does with NCCL."""
    dist.destroy_process_group = lambda: time.sleep(1000)  # type: ignore[assignment]


def run_out_of_memory_and_wait() -> None:
    waits_when_it_leaves()
    run_out_of_memory()


def lead_and_wait(rank: int, task: FilmTask, segment: int, seat: GroupSeat) -> None:
    waits_when_it_leaves()
    worker_of(rank, task).render_segment(task, segment, call_id=segment, seat=seat)


def stop_soon(rank: int, task: FilmTask, segment: int, seat: GroupSeat) -> None:
    here = worker_of(rank, task)
    here.stop(0)
    here.render_segment(task, segment, call_id=0, seat=seat)


# --- the tests ---


def alone(task: FilmTask) -> np.ndarray:
    here = FilmWorker("alone")
    for segment in range(3):
        here.render_segment(task, segment)
    here.close()
    return stored(task)


def test_groups_of_changing_degrees_render_a_film_and_never_read_weights_again(engine, pool, tmp_path: Path) -> None:
    """After the first segment there are none to read."""
    folder = tmp_path / "model"
    shutil.copytree(engine.checkpoint.folder, folder)
    task = replace(film_task(engine, tmp_path / "group", height=64, width=64), model=str(folder))
    shapes = [GroupShape(ring=3), GroupShape(ulysses=2), GroupShape(ring=2)]
    weights = []
    for segment, shape in enumerate(shapes):
        [(_, led), *helped] = together(pool, task, segment, *range(shape.size), shape=shape)
        weights.append((led, helped[0]))
        shutil.rmtree(folder / "transformer", ignore_errors=True)
    assert len(set(weights)) == 1
    state = load_film(open_store(task.output), task.work_key).state
    assert [segment.group_shape for segment in state.segments] == [(1, 1, 3), (1, 2, 1), (1, 1, 2)]
    assert np.abs(stored(task) - alone(film_task(engine, tmp_path / "alone", height=64, width=64))).max() <= 1e-4


def test_a_rank_out_of_memory_says_so_and_the_group_renders_the_same_bits_in_a_smaller_mode(
    engine, pool, tmp_path: Path
) -> None:
    calm, task = (film_task(engine, tmp_path / name, ulysses=2, height=64, width=64) for name in ("calm", "full"))
    together(pool, calm, 0, 0, 1)
    led, helped = together(pool, task, 0, 0, 1, strike=run_out_of_memory)
    assert "GroupError" in str(led) and "OutOfMemoryError" in str(helped)
    smaller = replace(task, plan=with_memory_fallback(task.plan, 1, "cpu", in_groups=True))
    assert smaller.plan.job.memory == "offload_disk"
    assert isinstance(together(pool, smaller, 0, 0, 1)[0], tuple)
    assert np.array_equal(stored(task), stored(calm))


def test_a_failed_rank_leaves_at_once_where_ending_a_group_would_wait_for_the_others(
    engine, pool, tmp_path: Path
) -> None:
    task = film_task(engine, tmp_path, ulysses=2, height=64, width=64)
    started = time.monotonic()
    led, helped = together(pool, task, 0, 0, 1, lead=lead_and_wait, strike=run_out_of_memory_and_wait)
    assert "GroupError" in str(led) and "OutOfMemoryError" in str(helped)
    assert time.monotonic() - started < 60


@pytest.mark.long
def test_a_killed_rank_fails_its_segment_and_another_group_renders_the_same_bits(engine, pool, tmp_path: Path) -> None:
    calm = film_task(engine, tmp_path / "calm", ring=2, num_inference_steps=60, height=64, width=64)
    for segment in range(3):
        together(pool, calm, segment, 0, 1)
    task = film_task(engine, tmp_path / "struck", ring=2, num_inference_steps=60, height=64, width=64)
    together(pool, task, 0, 0, 1)
    led, helped = together(pool, task, 1, 0, 1, strike=die_soon)
    assert "GroupError" in str(led) and isinstance(helped, EOFError)
    for segment in (1, 2):
        assert isinstance(together(pool, task, segment, 0, 2)[0], tuple)
    assert np.array_equal(stored(task), stored(calm))


def test_a_stopped_group_stops_at_one_step_on_all_ranks(engine, pool, tmp_path: Path) -> None:
    task = film_task(engine, tmp_path, ulysses=2, height=64, width=64)
    led, helped = together(pool, task, 0, 0, 1, lead=stop_soon)
    assert "Cancelled" in str(led) and "stopped at step 1" in str(led)
    assert "GroupError" in str(helped) and "stopped at step 1" in str(helped)


def count_formed() -> None:
    formed, form = [], dist.init_process_group
    dist.init_process_group = lambda *given, **named: (formed.append(1), form(*given, **named))  # type: ignore[assignment]
    dist.num_formed = lambda: len(formed)  # type: ignore[attr-defined]


def state_of_groups(rank: int) -> tuple[int, bool]:
    """How often this process formed a group, and whether it is in one."""
    return dist.num_formed(), dist.is_initialized()  # type: ignore[attr-defined]


def test_a_group_is_formed_once_for_the_segments_of_a_film_and_left_when_its_workers_do_anything_else(
    engine, pool, tmp_path: Path
) -> None:
    calm = film_task(engine, tmp_path / "calm", ulysses=2, height=64, width=64)
    for segment in range(3):
        together(pool, calm, segment, 0, 1)
    task = film_task(engine, tmp_path / "kept", ulysses=2, height=64, width=64)
    seat = new_seat(pool, task, 0)
    assert isinstance(together(pool, task, 0, 0, 1, kept=seat, strike=count_formed)[0], tuple)
    assert isinstance(together(pool, task, 1, 0, 1, kept=replace(seat, meeting=1))[0], tuple)
    pool.send(1, state_of_groups, (1,))
    assert pool.result(1) == (1, True)
    led, helped = together(pool, task, 2, 0, 1, kept=replace(seat, meeting=2), strike=run_out_of_memory)
    assert "GroupError" in str(led) and "OutOfMemoryError" in str(helped)
    pool.send(1, state_of_groups, (1,))
    assert pool.result(1) == (1, False)
    led, helped = together(pool, task, 2, 0, 1, kept=replace(seat, meeting=3))
    assert "failed before it started" in str(led) and "has left the group" in str(helped)
    assert isinstance(together(pool, task, 2, 0, 1)[0], tuple)
    assert np.array_equal(stored(task), stored(calm))
    alone_again = film_task(engine, tmp_path / "alone", height=64, width=64)
    pool.send(1, render_alone, (1, alone_again, 0))
    pool.result(1)
    pool.send(1, state_of_groups, (1,))
    assert pool.result(1) == (2, False)


def lead_alone(rank: int, task: FilmTask, seat: GroupSeat) -> None:
    here = worker_of(rank, task)
    threading.Timer(3.0, lambda: here.end_group(seat.rendezvous)).start()
    here.render_segment(task, 0, call_id=0, seat=seat)


def test_a_leader_does_not_wait_for_a_worker_that_will_not_come(engine, pool, tmp_path: Path) -> None:
    task = film_task(engine, tmp_path, ulysses=2, height=64, width=64)
    pool.send(0, open_group, (0, task))
    seat = GroupSeat(shape=group_of(task.plan.job), rank=0, rendezvous=pool.result(0), timeout_s=30.0)
    pool.send(0, lead_alone, (0, task, seat))
    with pytest.raises(RankFailed, match=r"could not join|failed before it started"):
        pool.result(0, patience_s=100)


def test_a_helper_does_not_wait_for_a_leader_that_is_gone(engine, pool, tmp_path: Path) -> None:
    """The leader found the segment stored, and went on."""
    task = film_task(engine, tmp_path, ulysses=2, height=64, width=64)
    together(pool, task, 0, 0, 1)
    led, helped = together(pool, task, 0, 0, 1)
    assert isinstance(led, tuple), led
    assert "stored already" in str(helped) or "could not join" in str(helped)
    assert isinstance(together(pool, task, 1, 0, 1)[0], tuple)


# --- decoding together ---


def decodes_as(rank: int, task: FilmTask) -> tuple[bool, int]:
    """Of the film here: whether a group decodes it, and how many segments were decoded."""
    output = worker_of(rank, task)._films.film(open_store(task.output), task).output
    assert output is not None
    return output.is_shared, output.num_segments


def finish(rank: int, task: FilmTask) -> int:
    return worker_of(rank, task).finish_film(task).num_frames


def frames_of(output: Path) -> np.ndarray:
    return np.stack(list(read_video(str(output / "a" / "video.mp4"), width=64, height=64, fit="crop"))).astype(int)


def test_a_group_decodes_its_film_together_wherever_it_goes(engine, pool, tmp_path: Path) -> None:
    size = {"height": 64, "width": 64, "quality": 10}
    expected = film_task(engine, tmp_path / "alone", **size)
    here = FilmWorker("alone")
    for segment in range(3):
        here.render_segment(expected, segment)
    here.finish_film(expected)
    here.close()

    def shared_film(name: str) -> FilmTask:
        task = film_task(engine, tmp_path / name, ulysses=2, **size)
        return replace(task, group_options=GroupOptions(decode="on"))

    def decoded(task: FilmTask) -> tuple[bool, int]:
        pool.send(0, decodes_as, (0, task))
        return pool.result(0)

    moving = shared_film("moving")
    for segment, helper in ((0, 1), (1, 1), (2, 2)):
        led, _ = together(pool, moving, segment, 0, helper)
        assert isinstance(led, tuple), led
        assert decoded(moving) == (True, segment + 1)
    left = shared_film("left")
    together(pool, left, 0, 0, 1)
    assert decoded(left) == (True, 1)
    pool.send(0, render_alone, (0, left, 1))
    pool.result(0)
    assert decoded(left) == (False, 2), "one worker decodes it anew"
    together(pool, left, 2, 0, 1)
    assert decoded(left) == (False, 3), "and goes on with it"
    for task in (moving, left):
        pool.send(0, finish, (0, task))
        assert pool.result(0) == 53
        difference = np.abs(frames_of(Path(task.output)) - frames_of(tmp_path / "alone"))
        assert difference.mean() < 0.1 and difference.max() <= 8, "levels of 255, after H.264"
