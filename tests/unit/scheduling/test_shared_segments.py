"""Who comes second waits for a segment that another film renders, however that ends."""

from __future__ import annotations

import pytest

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.retry import Failure
from tests.helpers.farm import Farm, film, none, only, renders

KEYS = ("0", "1", "2")
OTHER = ("0", "1", "x")
"""Differs from the third segment on."""
FAULT = Failure(fault=Fault.JOB, error_class="OutOfMemoryError", message="too large")


def films_at(actions: list[ev.Action]) -> list[tuple[str, int]]:
    return [(work.film[1], work.segment) for work in renders(actions)]


def test_the_second_film_waits_and_continues_where_it_differs():
    farm = Farm(film("a", 3, segment_keys=KEYS), film("b", 3, segment_keys=OTHER), workers=2)
    [first] = renders(farm.first)
    assert (first.film[1], first.segment) == ("a", 0)
    assert farm.why("b") == ("its segment 1 is also segment 1 of a, which is being rendered; it continues from there")
    both = renders(farm.done(first))
    assert sorted(films_at(both)) == [("a", 1), ("b", 0)], "b finds it stored"
    second, found = sorted(both, key=lambda work: work.film)
    none(farm.done(found), ev.RenderSegment)
    assert farm.why("b").startswith("its segment 2 is also segment 2 of a")
    third, again = sorted(renders(farm.done(second)), key=lambda work: work.film)
    assert films_at([third, again]) == [("a", 2), ("b", 1)]
    assert films_at(farm.done(again)) == [("b", 2)], "what differs is rendered at the same time"


@pytest.mark.parametrize("how", ["fails", "is cancelled", "loses its worker"])
def test_who_waits_renders_it_when_the_first_one_does_not(how):
    farm = Farm(film("a", 2, segment_keys=KEYS[:2]), film("b", 2, segment_keys=KEYS[:2]), hosts="ab")
    first = only(farm.first, ev.RenderSegment)
    if how == "fails":
        actions = farm.failed(first, FAULT)
    elif how == "is cancelled":
        actions = farm.apply(ev.CancelRun(run_id="r", reason="by name", job_ids=("a",)))
        none(actions, ev.RenderSegment)
        actions = farm.failed(first, Failure(fault=Fault.USER, error_class="Cancelled", message="stopped"))
    else:
        died = Failure(fault=Fault.WORKER, error_class="WorkerDiedError", message="died")
        actions = farm.apply(ev.WorkerLost(worker=first.worker, failure=died))
    assert ("b", 0) in films_at(actions) or ("a", 0) in films_at(actions)
    assert len(renders(actions)) == 1


def test_a_film_that_is_rendered_with_another_seed_shares_nothing_any_more():
    """Its first seed's segments are stored, and what it renders now is of no use to others."""
    farm = Farm(film("a", 1, segment_keys=KEYS[:1]), film("b", 1, segment_keys=KEYS[:1]), workers=2)
    first = only(farm.first, ev.RenderSegment)
    farm.apply(ev.PauseRun(run_id="r"))
    finish = only(farm.done(first), ev.FinishFilm)
    rejected = Failure(fault=Fault.JOB, error_class="FilmRejectedError", message="frozen")
    farm.failed(finish, rejected, segments_done=0, is_rejected=True)
    assert sorted(films_at(farm.apply(ev.ResumeRun(run_id="r")))) == [("a", 0), ("b", 0)]


def test_a_run_that_is_paused_while_its_film_waits_starts_nothing():
    farm = Farm(film("a", 1, segment_keys=KEYS[:1]), film("b", 1, segment_keys=KEYS[:1]), workers=2)
    first = only(farm.first, ev.RenderSegment)
    farm.apply(ev.PauseRun(run_id="r"))
    none(farm.done(first), ev.RenderSegment)
    assert farm.why("b") == "its run is paused"
    assert films_at(farm.apply(ev.ResumeRun(run_id="r"))) == [("b", 0)]


def test_a_film_that_waited_may_be_cancelled():
    farm = Farm(film("a", 1, segment_keys=KEYS[:1]), film("b", 1, segment_keys=KEYS[:1]), workers=2)
    first = only(farm.first, ev.RenderSegment)
    ended = only(farm.apply(ev.CancelRun(run_id="r", reason="x", job_ids=("b",))), ev.FilmEnded)
    assert ended.film == ("r", "b")
    none(farm.done(first), ev.RenderSegment)


def test_another_run_is_named():
    farm = Farm(film("a", 1, segment_keys=KEYS[:1]), workers=2, seal=False)
    farm.add(film("b", 1, run_id="other", segment_keys=KEYS[:1]))
    assert "is also segment 1 of a of run r," in farm.machine.why_waiting(ev.JobKey("other", "b"), 0.0)


def test_films_without_keys_wait_for_nobody():
    farm = Farm(film("a"), film("b"), workers=2)
    assert sorted(films_at(farm.first)) == [("a", 0), ("b", 0)]
