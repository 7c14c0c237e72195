"""The films that could be worked on now, in lanes of equals; each rule finds its candidate without looking at all.

A level (`aging.py`) holds a lane for every run, share, model and group size. In a lane films that were begun come
first, then the longest (the order that keeps the end of a night short), then first come. Heaps are cleaned as they are
read.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from render_farm.scheduling.affinity import Setting
from render_farm.scheduling.events import FilmKey

MOST_PASSED_OVER = 16
"""How often in a row the first of a lane may be passed over by equals that need no change of adapters."""
FINISHING = 0
"""Size of films that only have to be finished: they take no worker away."""


@dataclass(frozen=True, slots=True)
class QueueKey:
    """Films that are equals in every respect but length and adapters."""

    run_id: str
    share: str
    model: str
    size: int
    """Workers of its groups, or `FINISHING`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueEntry:
    """A film's place in the queue."""

    level: int
    lane: QueueKey
    setting: Setting
    number: int
    """Of its arrival."""
    is_begun: bool = False
    """Some of its segments are done."""
    left_s: float = 0.0
    """Expected time of what is left of it."""
    latest_begin_s: float | None = None
    """With a deadline: when it must go on."""
    risky_s: float | None = None
    """With a deadline: when it is at risk (`deadlines.risky_from_s`)."""

    @property
    def key(self) -> tuple[bool, float, int]:
        return (not self.is_begun, -self.left_s, self.number)

    @property
    def urgency(self) -> tuple[bool, float, int]:
        assert self.latest_begin_s is not None
        return (False, self.latest_begin_s, self.number)


_Name = TypeVar("_Name")
_Entry = tuple[tuple[bool, float, int], int, FilmKey]
"""(order, serial number of the ticket, film)."""


@dataclass
class _Level:
    lanes: dict[QueueKey, list[_Entry]] = field(default_factory=dict)
    by_setting: dict[tuple[QueueKey, Setting], list[_Entry]] = field(default_factory=dict)
    dated: list[_Entry] = field(default_factory=list)
    """By urgency."""
    risky: list[_Entry] = field(default_factory=list)
    """By the time from which a film is at risk."""
    groups: dict[int, dict[QueueKey, None]] = field(default_factory=dict)
    """Lanes by size of their groups, where that is above 1."""
    num_films: int = 0
    dated_left_s: float = 0.0
    num_dated: int = 0


@dataclass(slots=True)
class _Waiting:
    ticket: QueueEntry
    serial: int
    num_passed_over: int = 0


class ReadyQueue:
    """See the module. Every operation is O(log n) in the films of a level."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._order: list[int] = []
        """Heap of levels, negated."""
        self._ordered: set[int] = set()
        """What is in it."""
        self._waiting: dict[FilmKey, _Waiting] = {}
        self._serials = count()
        self._by_model: dict[str, int] = {}
        self.num_workers_wanted = 0
        """Of all films that wait, in groups of the size of their lanes."""
        self.group_changes = 0
        """Counts the comings and goings of films that need groups."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, film: FilmKey) -> bool:
        return film in self._waiting

    def ticket(self, film: FilmKey) -> QueueEntry:
        return self._waiting[film].ticket

    def num_of_model(self, model: str) -> int:
        """Films that wait for a model."""
        return self._by_model.get(model, 0)

    def group_sizes(self, level: int) -> Iterable[int]:
        """Sizes above 1 of the groups that films of a level wait for."""
        return self._levels[level].groups if level in self._levels else ()

    def group_lanes(self, level: int, size: int) -> Iterable[QueueKey]:
        """Lanes of a level whose films need groups of that size."""
        return self._levels[level].groups.get(size, ()) if level in self._levels else ()

    # --- in and out ---

    def push(self, film: FilmKey, ticket: QueueEntry) -> None:
        """Add a film that is not in the queue."""
        assert film not in self._waiting
        waiting = _Waiting(ticket=ticket, serial=next(self._serials))
        self._waiting[film] = waiting
        level = self._levels.get(ticket.level)
        if level is None:
            level = self._levels[ticket.level] = _Level()
            if ticket.level not in self._ordered:
                heapq.heappush(self._order, -ticket.level)
                self._ordered.add(ticket.level)
        entry = (ticket.key, waiting.serial, film)
        heapq.heappush(level.lanes.setdefault(ticket.lane, []), entry)
        heapq.heappush(level.by_setting.setdefault((ticket.lane, ticket.setting), []), entry)
        if ticket.latest_begin_s is not None and ticket.lane.size != FINISHING:
            assert ticket.risky_s is not None
            heapq.heappush(level.dated, (ticket.urgency, waiting.serial, film))
            heapq.heappush(level.risky, ((False, ticket.risky_s, ticket.number), waiting.serial, film))
            level.dated_left_s += ticket.left_s
            level.num_dated += 1
        level.num_films += 1
        self.num_workers_wanted += ticket.lane.size
        _add(self._by_model, ticket.lane.model, 1)
        if ticket.lane.size > 1:
            self.group_changes += 1
            level.groups.setdefault(ticket.lane.size, {})[ticket.lane] = None

    def discard(self, film: FilmKey) -> None:
        """Take a film out wherever it is; nothing happens when it is not there."""
        waiting = self._waiting.pop(film, None)
        if waiting is None:
            return
        ticket = waiting.ticket
        level = self._levels[ticket.level]
        level.num_films -= 1
        self.group_changes += ticket.lane.size > 1
        if ticket.latest_begin_s is not None and ticket.lane.size != FINISHING:
            level.num_dated -= 1
            level.dated_left_s = level.dated_left_s - ticket.left_s if level.num_dated else 0.0
        self.num_workers_wanted -= ticket.lane.size
        _add(self._by_model, ticket.lane.model, -1)
        if not level.num_films:
            del self._levels[ticket.level]
            return
        # Lanes and settings come and go: the heap of one that no film is in any more is dropped by looking.
        if self._head(level.by_setting[ticket.lane, ticket.setting]) is None:
            del level.by_setting[ticket.lane, ticket.setting]
        if self._head(level.lanes[ticket.lane]) is None:
            del level.lanes[ticket.lane]
            if ticket.lane.size > 1:
                del level.groups[ticket.lane.size][ticket.lane]
                if not level.groups[ticket.lane.size]:
                    del level.groups[ticket.lane.size]

    def take(self, film: FilmKey) -> None:
        """Take out a film to work on it. The first of its lane is counted as passed over when it is another."""
        ticket = self._waiting[film].ticket
        level = self._levels[ticket.level]
        first = self._head(level.lanes[ticket.lane])
        if first is not None and first != film and self._waiting[first].ticket.setting != ticket.setting:
            self._waiting[first].num_passed_over += 1
        self.discard(film)

    # --- looking ---

    def levels(self) -> Iterator[int]:
        """Levels with films, highest first."""
        while self._order and -self._order[0] not in self._levels:
            self._ordered.discard(-heapq.heappop(self._order))
        if not self._order:
            return
        yield -self._order[0]
        if len(self._levels) > 1:
            yield from sorted((level for level in self._levels if level != -self._order[0]), reverse=True)

    @property
    def top_level(self) -> int | None:
        return next(self.levels(), None)

    def lanes(self, level: int) -> Iterator[QueueKey]:
        """Lanes of a level, in the order in which they came to be."""
        return iter(self._levels[level].lanes)

    def num_dated(self, level: int) -> int:
        return self._levels[level].num_dated if level in self._levels else 0

    def dated_left_s(self, level: int) -> float:
        """What is left of all films of a level with a deadline."""
        return self._levels[level].dated_left_s if level in self._levels else 0.0

    def first_risky(self, level: int) -> QueueEntry | None:
        """The film of a level that is at risk before all others."""
        found = self._head(self._levels[level].risky) if level in self._levels else None
        return self._waiting[found].ticket if found is not None else None

    def dated(self, level: int, most: int) -> list[FilmKey]:
        """The `most` films of a level that must go on first."""
        return self._some(self._levels[level].dated, most) if level in self._levels else []

    def in_lane(self, level: int, lane: QueueKey, most: int) -> list[FilmKey]:
        """The `most` first films of a lane."""
        return self._some(self._levels[level].lanes.get(lane, []), most)

    def first(self, level: int, lane: QueueKey) -> FilmKey | None:
        """The first film of a lane."""
        heap = self._levels[level].lanes.get(lane)
        return self._head(heap) if heap is not None else None

    def first_key(self, level: int, lane: QueueKey) -> tuple[bool, float, int]:
        """The order of the first film of a lane."""
        heap = self._levels[level].lanes[lane]
        self._head(heap)
        return heap[0][0]

    def for_setting(self, level: int, lane: QueueKey, setting: Setting) -> FilmKey | None:
        """The first film of a lane for a setting; None when the lane's first was passed over often enough."""
        found = self._levels[level]
        first = self._head(found.lanes[lane])
        if first is not None and self._waiting[first].num_passed_over >= MOST_PASSED_OVER:
            return None
        heap = found.by_setting.get((lane, setting))
        return self._head(heap) if heap is not None else None

    def num_before(self, film: FilmKey) -> int:
        """How many films have a better place. Looks at all of them: for a person's question, not for every event."""
        own = _standing(self._waiting[film].ticket)
        return sum(_standing(waiting.ticket) < own for waiting in self._waiting.values())

    def _head(self, heap: list[_Entry]) -> FilmKey | None:
        while heap:
            current = self._waiting.get(heap[0][2])
            if current is not None and current.serial == heap[0][1]:
                return heap[0][2]
            heapq.heappop(heap)
        return None

    def _some(self, heap: list[_Entry], most: int) -> list[FilmKey]:
        """The first films of a heap."""
        found: list[_Entry] = []
        while len(found) < most and self._head(heap) is not None:
            found.append(heapq.heappop(heap))
        for entry in found:
            heapq.heappush(heap, entry)
        return [film for _, _, film in found]


def _add(counts: dict[_Name, int], name: _Name, change: int) -> None:
    number = counts.get(name, 0) + change
    if number:
        counts[name] = number
    else:
        del counts[name]


def _standing(ticket: QueueEntry) -> tuple[int, float, bool, float, int]:
    begin = float("inf") if ticket.latest_begin_s is None else ticket.latest_begin_s
    return (-ticket.level, begin, *ticket.key)
