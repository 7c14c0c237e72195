"""Search for an order of segments that meets every deadline, where the simple orders do not.

The case is small: the dated films of one level, and the workers' next free times. A dispatcher that leaves no worker
idle while a film could go on is simulated with orders by latest begin and by deadline, and with long films given up for
others; if films end late, few films are tried in all orders, and their segments' decisions are searched depth first,
within a number of decisions. The best that was found is returned.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from render_farm.scheduling.events import JobKey
from render_farm.scheduling.farm_state import FarmState
from render_farm.scheduling.idle_workers import IdleWorkers

MOST_FILMS = 24
"""A case with more is not searched: the order by latest begin is used."""
_MOST_PERMUTED = 6
_MOST_SEARCHED = 10
_MOST_DECISIONS = 4000
_TOLERANCE_S = 1e-6

Picks = tuple[int, ...]
"""Films by index, in the order in which workers are to take their segments."""


@dataclass(frozen=True, kw_only=True)
class DatedFilm:
    """What is left of a film."""

    segments_s: tuple[float, ...]
    deadline_s: float
    ready_s: float = 0.0
    """When its next segment can begin: the end of the one that is being rendered."""


@dataclass
class _Plan:
    picks: list[JobKey]
    """The order in which workers take the films' segments; empty where no search is made."""
    changes: int
    """`FarmState.dated_changes` when it was made."""


class DeadlinePlans:
    """The orders that were searched for, one per level. They are made again when anything about dated films changed."""

    def __init__(self, state: FarmState, idle_workers: IdleWorkers) -> None:
        self._state = state
        self._idle_workers = idle_workers
        self._plans: dict[int, _Plan] = {}

    def of(self, level: int, now: float) -> list[JobKey]:
        """The order in which workers take the segments of a level's dated films. Empty where no search is made: for
        many films, for no more than there are workers, or for groups."""
        films = self._state.dated.get(level, {})
        if not self._idle_workers.num_workers < len(films) <= MOST_FILMS:
            self._plans.pop(level, None)
            return []
        plan = self._plans.get(level)
        if plan is None or plan.changes != self._state.dated_changes:
            plan = _Plan(picks=self._search(list(films), now), changes=self._state.dated_changes)
            self._plans[level] = plan
        return plan.picks

    def picked(self, key: JobKey, level: int) -> None:
        """A film's segment was handed out. It is taken from the plan."""
        plan = self._plans.get(level)
        if plan is not None and key in plan.picks:
            plan.picks.remove(key)

    def _search(self, keys: list[JobKey], now: float) -> list[JobKey]:
        records = [self._state.films[key] for key in keys]
        if any(film.spec.group_size > 1 for film in records):
            return []
        dated = []
        for key, film in zip(keys, records, strict=True):
            ratio = self._state.ratio(film)
            work = self._state.workers[film.worker].work if film.worker is not None else None
            is_rendering = work is not None and work.film == key
            first = film.segments_done + is_rendering
            segments_s = tuple(film.prior_of(i) * ratio for i in range(first, film.spec.num_segments))
            assert film.spec.deadline_s is not None
            ready_s = max(now, work.ends_s) if work is not None and is_rendering else now
            dated.append(DatedFilm(segments_s=segments_s, deadline_s=film.spec.deadline_s, ready_s=ready_s))
        free_s = [self._free_s(worker, now) for worker in self._state.workers]
        return [keys[i] for i in best_order(dated, free_s or [now])]

    def _free_s(self, worker: str, now: float) -> float:
        record = self._state.workers[worker]
        work = record.work
        if record.leader in self._state.workers:
            work = self._state.workers[record.leader].work
        return now if work is None else max(now, work.ends_s)


def best_order(films: Sequence[DatedFilm], free_s: Sequence[float]) -> Picks:
    """The order of segments with the fewest late films, and the least lateness. `free_s`: when each worker is free."""
    best: _Found | None = None
    for order in _orders(films, free_s):
        found = _simulate(films, free_s, order)
        if best is None or found[0] < best[0]:
            best = found
        if not best[0][0]:
            return best[1]
    assert best is not None
    if len(films) > _MOST_SEARCHED:
        return best[1]
    search = _Search(films, best)
    search.go(sorted(free_s), [0] * len(films), [film.ready_s for film in films], ())
    return search.best[1]


def _orders(films: Sequence[DatedFilm], free_s: Sequence[float]) -> Iterator[Sequence[int]]:
    """Orders of films to try: by latest begin, by deadline, with the long films last that make others late, all."""
    by_begin = sorted(range(len(films)), key=lambda i: films[i].deadline_s - sum(films[i].segments_s))
    by_deadline = sorted(range(len(films)), key=lambda i: films[i].deadline_s)
    yield by_begin
    yield by_deadline
    for order in (by_begin, by_deadline):
        yield from _giving_up(films, free_s, order)
    if len(films) <= _MOST_PERMUTED:
        yield from itertools.permutations(by_begin)


def _giving_up(films: Sequence[DatedFilm], free_s: Sequence[float], order: Sequence[int]) -> Iterator[Sequence[int]]:
    """As Moore and Hodgson do for one worker: of the films up to the first late one, the longest goes to the end."""
    kept, given_up = list(order), list[int]()
    for _ in films:
        ends = _ends(films, free_s, [*kept, *given_up])[0]
        late = next((at for at, i in enumerate(kept) if ends[i] > films[i].deadline_s + _TOLERANCE_S), None)
        if late is None:
            return
        longest = max(kept[: late + 1], key=lambda i: sum(films[i].segments_s))
        kept.remove(longest)
        given_up.append(longest)
        yield [*kept, *given_up]


_Lateness = tuple[int, float]
"""Number of late films, and the sum of how late they are."""
_Found = tuple[_Lateness, Picks]


def _simulate(films: Sequence[DatedFilm], free_s: Sequence[float], order: Sequence[int]) -> _Found:
    """Workers take the first film of `order` that can continue."""
    ends, picks = _ends(films, free_s, order)
    return _lateness(films, ends), picks


def _ends(films: Sequence[DatedFilm], free_s: Sequence[float], order: Sequence[int]) -> tuple[list[float], Picks]:
    """When each film ends, and the order of its segments."""
    workers = list(free_s)
    heapq.heapify(workers)
    begun, ready, picks = [0] * len(films), [film.ready_s for film in films], []
    left = [i for i in order if films[i].segments_s]
    while left:
        now = heapq.heappop(workers)
        film = next((i for i in left if ready[i] <= now), None)
        if film is None:
            heapq.heappush(workers, min(ready[i] for i in left))
            continue
        picks.append(film)
        ready[film] = now + films[film].segments_s[begun[film]]
        begun[film] += 1
        heapq.heappush(workers, ready[film])
        if begun[film] == len(films[film].segments_s):
            left.remove(film)
    return ready, tuple(picks)


def _lateness(films: Sequence[DatedFilm], ends: Sequence[float]) -> _Lateness:
    late = [
        end - film.deadline_s for film, end in zip(films, ends, strict=True) if end > film.deadline_s + _TOLERANCE_S
    ]
    return len(late), round(sum(late), 6)


class _Search:
    """Depth first over which film a free worker takes; the film that must begin first is tried first."""

    def __init__(self, films: Sequence[DatedFilm], best: _Found) -> None:
        self._films = films
        self._left_s = [[sum(film.segments_s[i:]) for i in range(len(film.segments_s) + 1)] for film in films]
        self.best = best
        self._decisions = 0

    def go(self, free_s: list[float], begun: list[int], ready: list[float], picks: Picks) -> None:
        """Try every continuation that could be better than the best."""
        if self.best[0][0] == 0 or self._decisions > _MOST_DECISIONS:
            return
        open_films = [i for i, film in enumerate(self._films) if begun[i] < len(film.segments_s)]
        if not open_films:
            found = _lateness(self._films, ready)
            if found < self.best[0]:
                self.best = (found, picks)
            return
        bounds = [ready[i] + self._left_s[i][begun[i]] for i in range(len(self._films))]
        if _lateness(self._films, bounds) >= self.best[0]:
            return
        now, others = free_s[0], free_s[1:]
        able = [i for i in open_films if ready[i] <= now + 1e-9]
        if not able:
            self.go(sorted([min(ready[i] for i in open_films), *others]), begun, ready, picks)
            return
        able.sort(key=lambda i: self._films[i].deadline_s - self._left_s[i][begun[i]])
        tried = set()
        for i in able:
            film = self._films[i]
            same = (film.segments_s[begun[i] :], film.deadline_s)
            if same in tried:
                continue
            tried.add(same)
            self._decisions += 1
            end = now + film.segments_s[begun[i]]
            begun[i], before, ready[i] = begun[i] + 1, ready[i], end
            self.go(sorted([end, *others]), begun, ready, (*picks, i))
            begun[i], ready[i] = begun[i] - 1, before
