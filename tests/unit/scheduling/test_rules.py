"""Each rule of the scheduler: alone where it is a function, and in the machine where it decides something."""

from __future__ import annotations

import itertools

import pytest

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.affinity import Match, Setting, better_waits, match
from render_farm.scheduling.aging import level_of, takes_over
from render_farm.scheduling.deadlines import is_at_risk, latest_begin_s, risky_from_s
from render_farm.scheduling.elastic import as_learned, sizes_at_tail, sizes_for_deadline, tail_share
from render_farm.scheduling.idle_workers import IdleWorker, IdleWorkers
from render_farm.scheduling.queue import MOST_PASSED_OVER
from render_farm.scheduling.quotas import QuotaBook
from render_farm.scheduling.retry import Failure
from render_farm.scheduling.shares import ShareBook
from tests.helpers.farm import Farm, renders

M, N = Setting(model="m"), Setting(model="n")


def film(job_id: str, segments: int = 1, *, run_id: str = "r", **values) -> ev.Film:
    return ev.Film(run_id=run_id, job_id=job_id, num_segments=segments, **values)


# --- priority and aging ---


def test_waiting_long_enough_is_worth_more_than_any_priority():
    assert level_of(0, 0.0, 360.0) > level_of(100, 101 * 360.0, 360.0)
    assert level_of(0, 0.0, 360.0) < level_of(100, 0.0, 360.0)
    assert level_of(50, 1e6, 0.0) == 50


def test_a_begun_film_leaves_its_worker_for_a_higher_priority_or_a_much_longer_wait():
    assert takes_over((51, 51), (50, 50))
    assert not takes_over((50, 51), (50, 50))
    assert takes_over((40, 60), (50, 50))
    assert not takes_over((51, 49), (50, 50))


def test_a_film_of_low_priority_has_its_turn_though_urgent_ones_keep_coming():
    farm = Farm(film("old", priority=0), film("first", priority=90), aging_s=60.0)
    [work] = renders(farm.first)
    for number in itertools.count():
        farm.now += 60.0
        farm.add(film(f"new{number}", priority=90))
        actions = farm.done(work)
        [finish] = [action for action in actions if isinstance(action, ev.FinishFilm)]
        [work] = renders(actions + farm.apply(ev.FilmPublished(worker="w0", film=finish.film)))
        if work.film[1] == "old":
            break
    assert 80 < number < 100


# --- deadlines ---


def test_latest_begin_and_risk():
    assert latest_begin_s(100.0, 30.0) == 70.0
    risky = risky_from_s(100.0, 30.0, 10.0, 1.25)
    assert risky == 50.0
    assert not is_at_risk(risky, 0.0, 1, 49.0, 1.25)
    assert is_at_risk(risky, 0.0, 1, 50.0, 1.25)
    assert is_at_risk(risky, 8.0, 1, 40.0, 1.25)


def test_a_film_with_time_to_spare_waits_and_one_at_risk_goes_first():
    films = [film("long", 3), film("dated", 1, deadline_s=1e6)]
    assert Farm(*films).order() == ["long", "long", "long", "dated"]
    films = [film("long", 3), film("dated", 1, deadline_s=100.0)]
    assert Farm(*films).order() == ["dated", "long", "long", "long"]


def test_of_films_at_risk_the_one_that_must_begin_first_goes_first():
    films = [film("early", 1, deadline_s=200.0), film("late", 3, deadline_s=240.0)]
    assert missed(Farm(*films), films) == 0


def missed(farm: Farm, films: list[ev.Film], segment_s: float = 60.0) -> int:
    """Films that end late on one worker."""
    deadlines = {film.job_id: film.deadline_s for film in films}
    ends = {name: (index + 1) * segment_s for index, name in enumerate(farm.order(segment_s))}
    return sum(ends[name] > deadline for name, deadline in deadlines.items() if deadline is not None)


def test_a_begun_film_gives_way_to_one_that_cannot_wait_for_another_segment():
    farm = Farm(film("long", 9, segments_s=(60.0,) * 9))
    [work] = renders(farm.first)
    farm.now = 30.0
    farm.add(film("dated", 1, segments_s=(60.0,), deadline_s=150.0))
    farm.now = 60.0
    assert [action.film[1] for action in renders(farm.done(work))] == ["dated"]


# --- shares ---


def test_shares_are_served_by_weight():
    films = [film(f"{share}{i}", share=share) for share in "ab" for i in range(40)]
    order = Farm(*films, shares={"a": 3.0}, share_slack_s=1.0).order()[:40]
    assert sum(name[0] == "a" for name in order) == pytest.approx(30, abs=1)


def test_a_share_that_comes_back_is_not_owed_what_it_did_not_use():
    book = ShareBook({}, slack_s=1.0)
    book.arrived("a")
    for _ in range(10):
        book.charge("a", 100.0)
    book.arrived("b")
    assert book.turn("b") >= book.turn("a") - 100
    assert book.used_s == {"a": 1000.0}


def test_a_failed_segment_is_not_charged_beyond_what_it_used():
    book = ShareBook({}, slack_s=1.0)
    book.arrived("a")
    book.charge("a", 100.0)
    book.charge("a", -90.0)
    assert book.turn("a") == 10


# --- quotas ---


def test_a_run_renders_on_no_more_workers_than_it_asked_for():
    farm = Farm(*(film(f"f{i}") for i in range(4)), hosts="aaaa", max_workers=2)
    assert len(renders(farm.first)) == 2
    assert farm.why("f3") == "its run renders on 2 workers and may have 2"
    other = farm.add(film("g", run_id="q"), film("h", run_id="q"))
    assert len(renders(other)) == 2


def test_a_share_has_no_more_than_its_quota():
    farm = Farm(*(film(f"f{i}", share="a") for i in range(3)), film("g", share="b"), hosts="aaaa", quotas={"a": 1})
    assert sorted(action.film[1] for action in renders(farm.first)) == ["f0", "g"]
    assert farm.why("f1") == "'a' renders on 1 workers, and its quota is 1"
    [work] = [action for action in renders(farm.first) if action.film[1] == "f0"]
    assert [action.film[1] for action in renders(farm.done(work))] == ["f1"]


def test_a_group_larger_than_its_quota_says_so():
    book = QuotaBook({"a": 2})
    assert book.why("r", "a", 4) == "it needs 4 workers, and the quota of 'a' is 2"
    assert book.why("r", "b", 4) == ""


# --- affinity ---


def test_matches():
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


# --- placement ---


def floor_of(hosts: dict[str, int], idle: dict[str, int]) -> IdleWorkers:
    floor = IdleWorkers()
    for host, number in hosts.items():
        for i in range(number):
            floor.enter(f"{host}{i}", host)
            if i < idle[host]:
                floor.add(IdleWorker(worker=f"{host}{i}", host=host, setting=None, num_finishing=0))
    return floor


def test_a_group_goes_to_the_host_where_it_leaves_the_fewest_idle():
    floor = floor_of({"a": 8, "b": 8, "c": 8}, {"a": 8, "b": 5, "c": 3})
    assert floor.gang(M, 4, 50, ()) == ("b0", "b1", "b2", "b3")
    assert floor.gang(M, 2, 50, ()) == ("c0", "c1")
    assert floor.gang(M, 9, 50, ()) is None


def test_a_film_alone_breaks_up_no_whole_host():
    floor = floor_of({"a": 8, "b": 8}, {"a": 8, "b": 2})
    assert floor.one(M, 50, ()) == ("b0",)
    assert floor.one(M, 50, ("b0", "b1")) == ("a0",)


def test_a_host_is_held_for_a_group_until_it_has_room():
    """All have the same standing: without the hold the films' segments would follow each other to the end."""
    farm = Farm(*(film(f"f{i}", 9, segments_s=(60.0 + i,) * 9) for i in range(4)), hosts="aabb")
    works = {work.film[1]: work for work in renders(farm.first)}
    farm.add(film("gang", 1, group_size=2))
    ended = []
    while "gang" not in works:
        name = next(iter(works))
        ended.append(name)
        farm.now += 15.0
        works.update({work.film[1]: work for work in renders(farm.done(works.pop(name)))})
    assert len(works["gang"].helpers) == 1
    assert len(ended) <= 4


# --- elastic groups ---

OPTIONS = ((1, 1.0), (2, 1.9), (4, 3.5), (8, 6.0))


def test_parts_of_the_tail():
    assert tail_share(30.0, 120.0, 64, 8) == 16.0
    assert tail_share(1.0, 120.0, 64, 8) == 8.0
    assert sizes_at_tail(OPTIONS, 7.9) == [4, 2, 1]
    assert sizes_at_tail(OPTIONS, 0.3) == [1]


def test_a_group_as_large_as_the_deadline_needs():
    assert sizes_for_deadline(OPTIONS, 100.0, 110.0) == [1]
    assert sizes_for_deadline(OPTIONS, 100.0, 30.0) == [4, 2, 1]
    assert sizes_for_deadline(OPTIONS, 100.0, 1.0) == [1]


def test_how_fast_groups_are_is_learned_and_what_proved_to_be_no_faster_is_left_out():
    ratio, seen = {1: 1.0, 2: 1.25, 4: 4.0}, {1: 9, 2: 9, 4: 3}
    assert as_learned(((1, 1.0), (2, 1.9), (4, 3.5)), ratio.__getitem__, seen.__getitem__) == [(1, 1.0), (2, 1.52)]
    seen[4] = 2
    options = as_learned(((1, 1.0), (2, 1.9), (4, 3.5)), ratio.__getitem__, seen.__getitem__)
    assert options == [(1, 1.0), (2, 1.52), (4, 0.875)], "not seen often enough to be given up"


def test_a_film_gets_no_larger_group_once_those_proved_to_be_slower():
    farm = Farm(film("f", 9, joined_sizes=(2,), segments_s=(60.0,) * 9, cost_class=("m",)), hosts="aa")
    [work] = renders(farm.first)
    for _ in range(9):
        farm.machine.costs.observe(("m", "1"), 60.0, 60.0)
    helpers = []
    for _ in range(7):
        helpers.append(len(work.helpers))
        [work] = renders(farm.done(work, seconds=90.0 if work.helpers else 60.0))
    assert helpers == [0, 1, 1, 1, 0, 0, 0]


def test_at_the_tail_films_share_all_workers_and_before_it_none_has_more_than_one():
    farm = Farm(
        *(film(f"f{i}", 4, joined_sizes=(2, 4, 8), joined_speeds=(1.9, 3.5, 6.0)) for i in range(2)), hosts="aaaabbbb"
    )
    assert [len(work.helpers) for work in renders(farm.first)] == [0, 0]

    def helpers(num_films: int, **policy) -> list[int]:
        films = [film(f"f{i}", 4, joined_sizes=(2, 4, 8), joined_speeds=(1.9, 3.5, 6.0)) for i in range(num_films)]
        return [len(work.helpers) for work in renders(Farm(hosts="aaaabbbb", **policy).add(*films))]

    assert helpers(2) == [3, 3]
    assert helpers(9) == [0] * 8
    assert helpers(2, elastic=False) == [0, 0]


def test_a_film_grows_at_its_next_segment_and_moves_to_a_host_with_room():
    farm = Farm(film("f", 4, joined_sizes=(2, 4, 8), joined_speeds=(1.9, 3.5, 6.0)), film("g", 4), hosts="aabbbb")
    works = {work.film[1]: work for work in renders(farm.first)}
    [second] = [work for work in renders(farm.done(works["f"])) if work.film[1] == "f"]
    assert (second.worker, second.helpers) == ("w2", ("w3",))


def test_a_film_that_failed_twice_in_groups_is_tried_in_the_smallest():
    farm = Farm(hosts="aaaaaaaa")
    actions, tried = farm.add(film("f", 2, joined_sizes=(2, 4))), []
    for number in range(3):
        [work] = renders(actions)
        tried.append(len(work.helpers))
        failure = Failure(fault=Fault.WORKER, error_class="GroupError", message="rank 1 hangs")
        farm.apply(ev.WorkFailed(worker=work.worker, film=work.film, failure=failure))
        farm.apply(ev.WorkerUp(worker=f"fresh{number}", host="a"))
        farm.now += 5.0
        actions = farm.apply(ev.Tick())
    assert tried == [3, 3, 0]
