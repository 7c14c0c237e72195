"""Elastic groups: how large a group is worth it, and when films grow."""

from __future__ import annotations

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.elastic import as_learned, sizes_at_tail, sizes_for_deadline, tail_share
from render_farm.scheduling.retry import Failure
from tests.helpers.farm import Farm, film, renders

OPTIONS = ((1, 1.0), (2, 1.9), (4, 3.5), (8, 6.0))


def test_tail_share_and_the_group_sizes_that_it_allows():
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
