"""No deadline is missed that a feasible order meets: the scheduler against brute force on small cases."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import replace
from functools import partial

import pytest

from render_farm.scheduling.deadline_search import DatedFilm, best_order
from render_farm.scheduling.events import QueuedFilm
from render_farm.scheduling.simulator import SimulatedFarm, simulate


def case(seed: int) -> tuple[list[QueuedFilm], int]:
    """Films whose deadlines some random order of their segments meets, and the number of workers."""
    draw = random.Random(seed)
    num_workers, num_films = draw.randint(1, 3), draw.randint(2, 6)
    segments = []
    for _ in range(num_films):
        seconds = draw.choice((10.0, 20.0, 30.0, 45.0))
        segments.append((seconds,) * draw.randint(1, 4))
    ends = _ends(segments, num_workers, lambda able: draw.choice(able))
    slack = draw.choice((1.0, 1.0, 1.1, 1.5))
    films = [
        QueuedFilm(
            run_id="r",
            job_id=f"f{i}",
            num_segments=len(segments[i]),
            segments_s=segments[i],
            deadline_s=ends[i] * slack + 1e-3 if draw.random() < 0.9 else None,
        )
        for i in range(num_films)
    ]
    draw.shuffle(films)
    return films, num_workers


def _ends(segments, num_workers, choose) -> list[float]:
    """When each film ends, if every free worker takes what `choose` says of the films that could go on."""
    begun, ready = [0] * len(segments), [0.0] * len(segments)
    free = [0.0] * num_workers
    while any(done < len(mine) for done, mine in zip(begun, segments, strict=True)):
        now = heapq.heappop(free)
        left = [i for i in range(len(segments)) if begun[i] < len(segments[i])]
        able = [i for i in left if ready[i] <= now]
        if not able:
            heapq.heappush(free, min(ready[i] for i in left))
            continue
        film = choose(able)
        ready[film] = now + segments[film][begun[film]]
        begun[film] += 1
        heapq.heappush(free, ready[film])
    return ready


def fewest_late(films: list[QueuedFilm], num_workers: int) -> int:
    """By trying every order of the films; the segments of a film give way to films that are before it."""
    fewest = len(films)
    for order in itertools.permutations(range(len(films))):
        ends = _ends([film.segments_s for film in films], num_workers, partial(_first_of, order))
        late = sum(film.deadline_s is not None and end > film.deadline_s for film, end in zip(films, ends, strict=True))
        fewest = min(fewest, late)
        if not fewest:
            break
    return fewest


def _first_of(order: tuple[int, ...], able: list[int]) -> int:
    return min(able, key=order.index)


def rendered(films: list[QueuedFilm], num_workers: int) -> int:
    """Deadlines that the scheduler misses."""
    farm = SimulatedFarm(
        num_gpus=num_workers, gpus_per_node=8, load_s=0.0, adapters_s=0.0, finish_s=0.0, hand_over_s=0.0, noise=0.0
    )
    return simulate(films, farm).num_missed


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_what_a_feasible_order_meets_is_met(first):
    """In every one of these cases some choice of segments meets all deadlines; it is how they were made."""
    for seed in range(first, first + 50):
        films, num_workers = case(seed)
        assert rendered(films, num_workers) == 0, f"case {seed}: {films} on {num_workers}"


@pytest.mark.slow
def test_where_deadlines_cannot_be_met_no_order_of_the_films_is_better():
    for seed in range(500, 560):
        films, num_workers = case(seed)
        tight = [replace(film, deadline_s=film.deadline_s * 0.8 if film.deadline_s else None) for film in films[:5]]
        assert rendered(tight, num_workers) <= fewest_late(tight, num_workers), f"case {seed}"


def test_the_search_finds_what_neither_simple_order_does():
    films = [
        DatedFilm(segments_s=(10.0,), deadline_s=30.0),
        DatedFilm(segments_s=(20.0,), deadline_s=30.0),
        DatedFilm(segments_s=(15.0,), deadline_s=31.0),
        DatedFilm(segments_s=(15.0,), deadline_s=31.0),
    ]
    picks = best_order(films, [0.0, 0.0])
    ends = _ends([film.segments_s for film in films], 2, _by_picks(picks))
    assert all(end <= film.deadline_s for film, end in zip(films, ends, strict=True))


def _by_picks(picks):
    left = list(picks)

    def choose(able):
        film = next(pick for pick in left if pick in able)
        left.remove(film)
        return film

    return choose
