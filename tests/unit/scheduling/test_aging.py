"""Priority and aging."""

from __future__ import annotations

import itertools

from render_farm.scheduling import events as ev
from render_farm.scheduling.aging import level_of, takes_over
from tests.helpers.farm import Farm, film, renders


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
