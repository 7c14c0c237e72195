"""Affinity: films wait for workers that have their model and adapters loaded."""

from __future__ import annotations

from render_farm.scheduling import events as ev
from render_farm.scheduling.affinity import Match, Setting, better_waits, match
from render_farm.scheduling.queue import MOST_PASSED_OVER
from tests.helpers.farm import Farm, film, renders

M, N = Setting(model="m"), Setting(model="n")


def test_a_worker_matches_a_film_by_its_loaded_model_and_adapters():
    red = Setting(model="m", adapters=(("red", 1.0),))
    assert match(None, M) is Match.NOTHING_LOADED
    assert match(M, M) is Match.ALL_LOADED
    assert match(red, M) is Match.OTHER_ADAPTERS
    assert match(N, M) is Match.OTHER_MODEL


def test_a_film_waits_for_its_model_only_if_that_is_sooner_than_loading():
    assert better_waits(50.0, 60.0, 0.0)
    assert not better_waits(70.0, 60.0, 0.0)
    assert not better_waits(None, 60.0, 0.0)
    assert not better_waits(50.0, None, 0.0)
    assert not better_waits(-1.0, 60.0, 0.0)


def test_a_loaded_model_is_not_dropped_for_one_job():
    """Worker 1 has model n; the second film of model m waits for worker 0, which is free before m could be loaded."""
    slow = film("m1", 1, model="m", segments_s=(100.0,))
    farm = Farm(slow, film("n1", 1, model="n", segments_s=(60.0,)), hosts="ab")
    works = {work.film[1]: work for work in renders(farm.first)}
    farm.machine.costs.observe_load("m", 60.0)
    farm.apply(ev.SetPriority(run_id="r", job_ids=("m1",), priority=50))
    farm.machine._dispatcher.ends.began("m", works["m1"].worker, ("r", "m1"), 100.0)
    farm.now = 60.0
    farm.done(works["n1"])
    actions = farm.add(film("m2", 1, model="m"))
    assert renders(actions) == []
    assert farm.why("m2") == "a worker that has its model loaded should be free in 40 s, before another could load it"
    farm.now = 100.0
    assert [(work.film[1], work.worker) for work in renders(farm.done(works["m1"]))] == [("m2", works["m1"].worker)]


def test_adapters_are_passed_over_at_most_so_often():
    films = [film("red0", adapters=(("red", 1.0),)), film("blue", adapters=(("blue", 1.0),))]
    films += [film(f"red{i}", adapters=(("red", 1.0),)) for i in range(1, 40)]
    assert Farm(*films).order().index("blue") == MOST_PASSED_OVER + 1
