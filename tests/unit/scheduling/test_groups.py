"""Render groups in the scheduling machine: formed from idle workers of one host, ended together."""

from __future__ import annotations

import pytest

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.retry import Failure
from render_farm.scheduling.states import State
from tests.helpers.farm import Farm, renders

GROUP_FAULT = Failure(fault=Fault.WORKER, error_class="GroupError", message="rank 1 hangs")


def film(job_id: str = "g", segments: int = 2, size: int = 3, **values) -> ev.QueuedFilm:
    return ev.QueuedFilm(run_id="r", job_id=job_id, num_segments=segments, group_size=size, **values)


def test_a_group_is_a_leader_and_helpers_of_one_host():
    farm = Farm(film(size=2), hosts="abba")
    [action] = renders(farm.first)
    assert {action.worker, *action.helpers} == {"w1", "w2"}


def test_a_film_keeps_its_group_from_segment_to_segment_and_one_worker_finishes_it():
    farm = Farm(film(), hosts="aaaa")
    [first] = renders(farm.first)
    [second] = renders(farm.done(first))
    assert (second.worker, second.helpers) == (first.worker, first.helpers)
    actions = farm.done(second)
    assert [type(action) for action in actions] == [ev.FinishFilm]
    assert len(farm.machine.idle_workers) == 3


def test_two_groups_share_a_host():
    farm = Farm(film("a", size=2), film("b", size=2), hosts="aaaa")
    assert [{action.worker, *action.helpers} for action in renders(farm.first)] == [{"w0", "w1"}, {"w2", "w3"}]


def test_a_group_that_needs_busy_workers_gets_them_before_lesser_films():
    farm = Farm(film("one", segments=1, size=1, priority=90), film("all", size=2, priority=80), hosts="aa")
    [one] = renders(farm.first)
    assert one.film[1] == "one"
    assert renders(farm.apply(ev.FilmsAdded(films=(film("late", size=1, priority=10),)))) == []
    [group] = renders(farm.done(one))
    assert group.film[1] == "all"


def test_a_group_that_no_host_can_form_stops_nobody_and_says_why():
    farm = Farm(film("wide", size=4), film("one", size=1), hosts="aabb")
    assert [action.film[1] for action in renders(farm.first)] == ["one"]
    assert farm.why("wide") == "it needs 4 workers on one host, and no host has as many"


def test_a_lone_film_is_not_held_up_by_a_group_that_gathers_on_another_host():
    busy = (film("b1", segments=1, size=1, priority=90), film("b2", segments=1, size=1, priority=90))
    farm = Farm(*busy, film("group", size=2, priority=80), film("late", size=1, priority=10), hosts="ab")
    assert farm.why("group") == "it needs 2 workers on one host, and no host has as many"
    [late] = renders(farm.apply(ev.WorkerUp(worker="w2", host="b"), 0.0)) or [None]
    assert late is None, "it waits for the other one of its host, with the group"
    [late] = renders(farm.apply(ev.WorkerUp(worker="w3", host="c"), 0.0))
    assert (late.film[1], late.worker) == ("late", "w3")


def test_a_group_without_a_host_that_has_enough_idle_says_what_is_missing():
    farm = Farm(film("one", segments=1, size=1, priority=90), film("group", size=2, priority=80), hosts="aa")
    assert farm.why("group") == "it needs 2 idle workers on one host; a has 1"


def replaced(actions: list[ev.Action]) -> set[str]:
    return {action.worker for action in actions if isinstance(action, ev.ReplaceWorker)}


def test_a_failed_group_frees_those_who_left_it_and_replaces_the_one_that_failed():
    farm = Farm(film(size=3), hosts="aaaa")
    [action] = renders(farm.first)
    actions = farm.failed(action, GROUP_FAULT, blamed=action.helpers[1])
    assert replaced(actions) == {action.helpers[1]}
    [again] = renders(farm.apply(ev.Tick(), 2.0))
    assert again.segment == 0 and action.helpers[1] not in (again.worker, *again.helpers)


def test_processes_that_a_failure_broke_end_and_a_whole_group_may_be_formed_of_fresh_ones():
    farm = Farm(film(size=2), hosts="aa")
    [action] = renders(farm.first)
    group = (action.worker, *action.helpers)
    assert replaced(farm.failed(action, GROUP_FAULT, ending=group)) == set(group)
    farm.apply(ev.WorkerUp(worker="w8", host="a"), 2.0)
    [again] = renders(farm.apply(ev.WorkerUp(worker="w9", host="a"), 2.0))
    assert {again.worker, *again.helpers} == {"w8", "w9"}


@pytest.mark.parametrize("error_class", ["BrokenGroupError", "DeviceError"])
def test_a_film_that_is_finished_on_a_member_of_a_group_that_breaks_is_not_blamed(error_class: str):
    """A broken group's exchanges are nobody's films, and a helper's GPU is not the one that finishes the film."""
    farm = Farm(film("a", segments=1, size=1, priority=90), film("g", size=2), hosts="aa")
    actions = farm.done(renders(farm.first)[0])
    [finish] = [action for action in actions if isinstance(action, ev.FinishFilm)]
    [group] = renders(actions)
    members = (group.worker, *group.helpers)
    assert finish.worker in members
    [other] = [name for name in members if name != finish.worker]
    failure = Failure(fault=Fault.WORKER, error_class=error_class, message="rank 1 is gone", poisons_process=True)
    blamed = other if error_class == "DeviceError" else group.worker
    actions = farm.failed(group, failure, ending=members, blamed=blamed)
    assert replaced(actions) == set(members)
    farm.tick(60.0)
    actions = farm.apply(ev.WorkerUp(worker="w8", host="a"))
    [again] = [action for action in actions if isinstance(action, ev.FinishFilm)]
    assert (again.film, again.attempt) == (finish.film, 1)


def test_a_group_that_failed_is_never_left_without_enough_workers_that_may_try_again():
    farm = Farm(film(size=2), hosts="aa")
    [action] = renders(farm.first)
    unforeseen = Failure(fault=Fault.WORKER, error_class="KeyError", message="a surprise")
    assert replaced(farm.failed(action, unforeseen)) == {action.worker}
    [again] = renders(farm.apply(ev.WorkerUp(worker="w8", host="a"), 2.0))
    assert {again.worker, *again.helpers} == {"w8", *action.helpers}


def test_a_lost_leader_leaves_helpers_that_are_free_when_they_have_left():
    farm = Farm(film(size=3), hosts="aaaa")
    [action] = renders(farm.first)
    farm.apply(ev.WorkerLost(worker=action.worker, failure=GROUP_FAULT))
    assert set(farm.machine.idle_workers).isdisjoint(action.helpers)
    for helper in action.helpers:
        farm.apply(ev.HelperLeft(worker=helper, leader=action.worker))
    assert set(farm.machine.idle_workers) == set(farm.machine.workers)


def test_a_helper_that_stays_behind_is_not_free_until_it_has_left():
    farm = Farm(film(size=2), hosts="aa")
    [action] = renders(farm.first)
    [helper] = action.helpers
    done = ev.SegmentDone(worker=action.worker, film=action.film, segment=0, staying=(helper,))
    assert renders(farm.apply(done)) == []
    assert farm.machine.why_waiting(action.film, 0.0) == "it needs 2 idle workers on one host; a has 1"
    [second] = renders(farm.apply(ev.HelperLeft(worker=helper, leader=action.worker)))
    assert second.segment == 1
    farm.apply(ev.HelperLeft(worker=helper, leader="another"))
    assert helper not in farm.machine.idle_workers


def test_a_lost_helper_ends_the_segment_when_its_leader_says_so():
    farm = Farm(film(size=2), hosts="aa")
    [action] = renders(farm.first)
    assert renders(farm.apply(ev.WorkerLost(worker=action.helpers[0], failure=GROUP_FAULT))) == []
    assert replaced(farm.failed(action, GROUP_FAULT, blamed=action.helpers[0])) == set()
    [again] = renders(farm.apply(ev.WorkerUp(worker="w2", host="a"), 2.0))
    assert again.segment == 0 and {again.worker, *again.helpers} == {action.worker, "w2"}


def test_a_group_that_is_lost_is_one_fault_of_its_host():
    died = Failure(fault=Fault.WORKER, error_class="WorkerDiedError", message="ended")
    for lost_first in (0, 7):
        farm = Farm(film(size=8), hosts="a" * 8 + "b" * 8)
        [action] = renders(farm.first)
        group = [action.worker, *action.helpers]
        for worker in (group[lost_first], *group[:lost_first], *group[lost_first + 1 :]):
            farm.apply(ev.WorkerLost(worker=worker, failure=died))
        assert farm.machine.hosts.quarantined == {}
        assert [host.recent_faults for host in farm.machine.hosts.views()] == [1, 0]


def test_a_group_out_of_memory_steps_down_and_keeps_its_processes():
    farm = Farm(film(size=2, num_memory_modes=2), hosts="aa")
    [action] = renders(farm.first)
    failure = Failure(fault=Fault.JOB, error_class="OutOfMemoryError", message="does not fit")
    actions = farm.failed(action, failure, blamed=action.helpers[0])
    [again] = renders([*actions, *farm.apply(ev.Tick())])
    assert (again.fallback_level, replaced(actions)) == (1, set())


def test_a_film_that_was_cancelled_and_is_tried_again_does_not_free_the_helpers_of_its_new_group():
    farm = Farm(film(size=2), hosts="aaaa")
    [old] = renders(farm.first)
    farm.apply(ev.CancelRun(run_id="r", reason="asked to", job_ids=("g",)))
    farm.machine._state.runs["r"].ended = False  # another film of it would keep it going
    [new] = renders(farm.apply(ev.RetryFilms(run_id="r", job_ids=("g",))))
    cancelled = Failure(fault=Fault.USER, error_class="Cancelled", message="stopped")
    farm.failed(old, cancelled)
    assert set(farm.machine.idle_workers) == {old.worker, *old.helpers}
    assert set(farm.machine.workers) - {new.worker, *new.helpers} == {old.worker, *old.helpers}


def test_a_cancelled_group_gives_all_its_workers_back():
    farm = Farm(film(size=2), hosts="aa")
    [action] = renders(farm.first)
    farm.apply(ev.FilmsAdded(films=(film("next", size=1),)))
    farm.apply(ev.CancelRun(run_id="r", reason="asked to", job_ids=("g",)))
    assert farm.machine.state_of(action.film) is State.CANCELLED
    failure = Failure(fault=Fault.USER, error_class="Cancelled", message="stopped")
    [after] = renders(farm.apply(ev.WorkFailed(worker=action.worker, film=action.film, failure=failure)))
    assert after.film[1] == "next"
    assert len(farm.machine.idle_workers) == 1


# --- when fewer films than workers are left ---


def elastic(job_id: str, segments: int = 3, **values) -> ev.QueuedFilm:
    return film(job_id, segments=segments, size=1, joined_sizes=(2, 4, 8), **values)


def sizes(actions: list[ev.Action]) -> dict[str, int]:
    return {action.film[1]: 1 + len(action.helpers) for action in renders(actions)}


def test_idle_workers_join_the_films_that_are_left_at_their_next_segments():
    farm = Farm(elastic("a"), elastic("b"), film("c", segments=1, size=1), film("d", segments=1, size=1), hosts="aaaa")
    a, b, c, d = renders(farm.first)
    assert sizes(farm.first) == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert sizes(farm.done(a)) == {"a": 1}, "all are at work"
    farm.done(c)
    farm.done(d)
    [b] = renders(farm.done(b))
    assert (b.film[1], len(b.helpers)) == ("b", 1), "two of four each"
    [a] = renders(farm.done(ev.RenderSegment(worker=a.worker, film=a.film, segment=1, attempt=1)))
    assert (a.film[1], len(a.helpers)) == ("a", 1)
    farm.done(a)
    [b] = renders(farm.done(b))
    assert len(b.helpers) == 3, "the last film gets all"


def test_workers_that_join_are_of_the_films_host_and_of_sizes_it_may_have():
    farm = Farm(elastic("a"), hosts="aaab")
    [action] = renders(farm.first)[-1:]
    [second] = renders(farm.done(action))
    assert len(second.helpers) == 1 and set(second.helpers) <= {"w0", "w1", "w2"}


def test_a_film_whose_degrees_are_pinned_keeps_them_when_workers_are_idle():
    farm = Farm(film("a", size=2, segments=3), hosts="aaaa")
    [action] = renders(farm.first)
    assert sizes(farm.done(action)) == {"a": 2}


def test_films_that_come_get_workers_when_the_segment_is_over():
    farm = Farm(elastic("a"), hosts="aaaa")
    [alone] = renders(farm.first)
    [joined] = renders(farm.done(alone))
    assert len(joined.helpers) == 3
    assert renders(farm.apply(ev.FilmsAdded(films=(elastic("b"), elastic("c"), elastic("d"))))) == []
    assert sizes(farm.done(joined)) == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_a_group_that_lost_a_worker_goes_on_with_those_that_are_left():
    farm = Farm(elastic("a"), hosts="aaaa")
    [action] = renders(farm.done(renders(farm.first)[0]))
    farm.apply(ev.WorkerLost(worker=action.helpers[0], failure=GROUP_FAULT))
    farm.failed(action, GROUP_FAULT, blamed=action.helpers[0])
    [again] = renders(farm.apply(ev.Tick(), 2.0))
    assert (again.segment, len(again.helpers)) == (1, 1)
