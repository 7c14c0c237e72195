"""Deadlines: when a film is at risk, and what gives way to it."""

from __future__ import annotations

from render_farm.scheduling import events as ev
from render_farm.scheduling.deadlines import is_at_risk, latest_begin_s, risky_from_s
from tests.helpers.farm import Farm, film, renders


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


def missed(farm: Farm, films: list[ev.QueuedFilm], segment_s: float = 60.0) -> int:
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
