"""Films that are rendered before all others start (`--canary`), and the pause when one of them fails."""

from __future__ import annotations

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.events import JobKey
from render_farm.scheduling.retry import Failure
from render_farm.scheduling.states import State
from tests.helpers.farm import Farm, film, only

REFUSED = Failure(fault=Fault.JOB, error_class="InputError", message="no such picture")


def started(actions: list[ev.Action]) -> list[str]:
    return [action.film.job_id for action in actions if isinstance(action, ev.RenderSegment)]


def seal(farm: Farm, *first: str, first_failed: int = 0) -> list[ev.Action]:
    return farm.apply(ev.RunSealed(run_id="r", first=first, first_failed=first_failed))


def farm_of(*first: str, first_failed: int = 0) -> tuple[Farm, list[ev.Action]]:
    """A run of films a to d on two workers, and what starts first."""
    farm = Farm(*(film(name, 1) for name in "abcd"), workers=0, seal=False)
    actions = seal(farm, *first, first_failed=first_failed)
    for number in range(2):
        actions += farm.apply(ev.WorkerUp(worker=f"w{number}", host=""))
    return farm, actions


def test_nothing_else_starts_before_the_canaries_have_ended():
    farm, actions = farm_of("c")
    assert started(actions) == ["c"]
    assert "--canary" in farm.machine.why_waiting(JobKey("r", "a"), farm.now)
    finish = only(farm.done(only(actions, ev.RenderSegment)), ev.FinishFilm)
    assert set(started(farm.published(finish))) <= {"a", "b", "d"}
    assert len(farm.machine.idle_workers) == 0


def test_a_canary_that_fails_pauses_the_run_until_it_is_resumed():
    farm, actions = farm_of("a", "b")
    works = [action for action in actions if isinstance(action, ev.RenderSegment)]
    assert started(farm.failed(works[0], REFUSED)) == []
    ended = farm.published(only(farm.done(works[1]), ev.FinishFilm))
    assert only(ended, ev.RunPaused).num_failed == 1
    assert started(ended) == []
    assert farm.machine.why_waiting(JobKey("r", "c"), farm.now) == "its run is paused"
    assert sorted(started(farm.apply(ev.ResumeRun(run_id="r")))) == ["c", "d"]


def test_a_canary_that_was_refused_before_the_run_began_pauses_it_at_once():
    _, actions = farm_of("refused", first_failed=1)
    assert only(actions, ev.RunPaused).num_failed == 1
    assert started(actions) == []


def test_canaries_that_are_done_already_hold_nothing_up():
    _, actions = farm_of("done-before")
    assert len(started(actions)) == 2


def test_a_run_whose_canaries_are_all_its_films_is_not_paused_at_its_end():
    farm, actions = farm_of("a", "b", "c", "d")
    ended: list[ev.Action] = []
    works = [action for action in actions if isinstance(action, ev.RenderSegment)]
    while works:
        ended = farm.failed(works.pop(0), REFUSED)
        works += [action for action in ended if isinstance(action, ev.RenderSegment)]
    assert only(ended, ev.RunEnded).state is State.FAILED
    assert not [action for action in ended if isinstance(action, ev.RunPaused)]


def test_cancelling_a_run_that_waits_for_its_canaries_ends_it():
    farm, _ = farm_of("a")
    assert only(farm.apply(ev.CancelRun(run_id="r", reason="enough")), ev.RunEnded).state is State.CANCELLED
