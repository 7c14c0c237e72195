"""Workers of a node that is told to go are asked to end once, with the time that the notice gives."""

from __future__ import annotations

import pytest

from render_farm.farm.draining import DrainWatch
from render_farm.farm.film_worker import FilmWorker

NODES = {"worker-0.1": "x", "worker-1.1": "y", "worker-2.1": "x"}


def test_each_worker_of_a_draining_node_is_told_once():
    watch = DrainWatch()
    assert watch.newly({}, NODES) == {}
    told = watch.newly({"x": 1_060_000}, NODES, now_s=1000.0)
    assert told == {"worker-0.1": pytest.approx(48), "worker-2.1": pytest.approx(48)}
    assert watch.newly({"x": 1_060_000}, NODES, now_s=1001.0) == {}
    fresh = {"worker-1.1": "y", "worker-2.2": "x"}
    assert watch.newly({"x": 1_060_000, "y": 0}, fresh, now_s=1050.0) == {
        "worker-1.1": None,  # no time was given
        "worker-2.2": pytest.approx(8),
    }


def test_a_time_that_has_passed_leaves_none():
    assert DrainWatch().newly({"y": 900_000}, NODES, now_s=1000.0) == {"worker-1.1": 0.0}


@pytest.mark.parametrize(
    ("within_s", "left_s", "must_end"),
    [(None, 20.0, False), (None, 30.0, True), (60.0, 30.0, False), (5.0, 20.0, True), (0.0, 0.1, True)],
)
def test_a_segment_goes_on_while_there_is_time_for_it(within_s, left_s, must_end):
    worker = FilmWorker("worker-0.1")
    assert not worker._must_end(1e9, 0.0)
    worker.preempt(within_s)
    assert worker._must_end(left_s, grace_s=25.0) is must_end
    worker.close()
