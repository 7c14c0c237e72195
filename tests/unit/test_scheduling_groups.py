"""Render groups in the scheduling machine: formed from idle workers of one host, ended together."""

from __future__ import annotations

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.retry import Failure, RetryPolicy
from render_farm.scheduling.states import JobState

GROUP_FAULT = Failure(fault=Fault.WORKER, error_class="GroupError", message="rank 1 hangs", poisons_process=True)


class Farm:
    """A machine with workers on hosts, and the films of one run."""

    def __init__(self, *films: ev.Film, hosts: str = "aaaa") -> None:
        self.machine = FarmMachine(RetryPolicy(jitter=0.0))
        self.apply(ev.FilmsAdded(films=films))
        self.apply(ev.TextReady(run_id="r", model=""))
        self.apply(ev.RunSealed(run_id="r"))
        self.first = [
            action
            for number, host in enumerate(hosts)
            for action in self.apply(ev.WorkerUp(worker=f"w{number}", host=host))
        ]

    def apply(self, event: ev.Event, now: float = 0.0) -> list[ev.Action]:
        return self.machine.apply(event, now)

    def done(self, action: ev.RenderSegment) -> list[ev.Action]:
        return self.apply(ev.SegmentDone(worker=action.worker, film=action.film, segment=action.segment))


def film(job_id: str = "g", segments: int = 2, size: int = 3, **values) -> ev.Film:
    return ev.Film(run_id="r", job_id=job_id, num_segments=segments, group_size=size, **values)


def renders(actions: list[ev.Action]) -> list[ev.RenderSegment]:
    return [action for action in actions if isinstance(action, ev.RenderSegment)]


def test_a_group_is_a_leader_and_helpers_of_one_host():
    farm = Farm(film(size=2), hosts="abba")
    [action] = renders(farm.first)
    assert {action.worker, *action.helpers} == {"w1", "w2"}


def test_a_film_keeps_its_group_from_segment_to_segment_and_one_worker_finishes_it():
    farm = Farm(film())
    [first] = renders(farm.first)
    [second] = renders(farm.done(first))
    assert (second.worker, second.helpers) == (first.worker, first.helpers)
    actions = farm.done(second)
    assert [type(action) for action in actions] == [ev.FinishFilm]
    assert len(farm.machine.idle_workers) == 3


def test_two_groups_share_a_host():
    farm = Farm(film("a", size=2), film("b", size=2))
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
    assert farm.machine.why_waiting(("r", "wide"), 0.0) == "it needs 4 workers on one host, and no host has as many"


def test_a_failed_group_ends_its_processes_and_the_segment_is_rendered_by_another():
    farm = Farm(film(size=2), hosts="aaa")
    [action] = renders(farm.first)
    actions = farm.apply(ev.WorkFailed(worker=action.worker, film=action.film, failure=GROUP_FAULT))
    ended = {action.worker for action in actions if isinstance(action, ev.ReplaceWorker)}
    assert ended == {action.worker, *action.helpers}
    assert renders(farm.apply(ev.WorkerUp(worker="w8", host="a"), 1.5)) != []


def test_a_lost_leader_ends_its_helpers():
    farm = Farm(film(size=3))
    [action] = renders(farm.first)
    actions = farm.apply(ev.WorkerLost(worker=action.worker, failure=GROUP_FAULT))
    assert {action.worker for action in actions if isinstance(action, ev.ReplaceWorker)} == set(action.helpers)


def test_a_lost_helper_ends_the_segment_when_its_leader_says_so():
    farm = Farm(film(size=2), hosts="aa")
    [action] = renders(farm.first)
    assert renders(farm.apply(ev.WorkerLost(worker=action.helpers[0], failure=GROUP_FAULT))) == []
    actions = farm.apply(ev.WorkFailed(worker=action.worker, film=action.film, failure=GROUP_FAULT))
    assert [action.worker for action in actions if isinstance(action, ev.ReplaceWorker)] == [action.worker]
    farm.apply(ev.WorkerUp(worker="w2", host="a"), 2.0)
    [again] = renders(farm.apply(ev.WorkerUp(worker="w3", host="a"), 2.0))
    assert again.segment == 0 and {again.worker, *again.helpers} == {"w2", "w3"}


def test_a_cancelled_group_gives_all_its_workers_back():
    farm = Farm(film(size=2), hosts="aa")
    [action] = renders(farm.first)
    farm.apply(ev.FilmsAdded(films=(film("next", size=1),)))
    farm.apply(ev.CancelRun(run_id="r", reason="asked to", job_ids=("g",)))
    assert farm.machine.state_of(action.film) is JobState.CANCELLED
    failure = Failure(fault=Fault.USER, error_class="Cancelled", message="stopped")
    [after] = renders(farm.apply(ev.WorkFailed(worker=action.worker, film=action.film, failure=failure)))
    assert after.film[1] == "next"
    assert len(farm.machine.idle_workers) == 1
