"""The films that could be worked on now, in one queue per kind of equals, so that no rule has to look at every film.

A level (`aging.py`) holds a queue for every run, share, model and group size (`QueueKey`). In a queue, films that have
started come first, then the longest (which keeps the end of a night short), then the first to arrive. Heaps are cleaned
as they are read.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from render_farm.scheduling.affinity import Setting
from render_farm.scheduling.events import JobKey

MOST_PASSED_OVER = 16
"""How often in a row the first of a queue may be passed over by equals that need no change of adapters."""
FINISHING = 0
"""Size of films that only have to be finished: they take no worker away."""


@dataclass(frozen=True, slots=True)
class QueueKey:
    """What the films of one queue share. They differ in length and adapters only."""

    run_id: str
    share: str
    model: str
    size: int
    """Workers of its groups, or `FINISHING`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueEntry:
    """A film's place in the queue."""

    level: int
    queue_key: QueueKey
    setting: Setting
    number: int
    """Position in the order of arrival."""
    is_begun: bool = False
    """Some of its segments are done."""
    left_s: float = 0.0
    """Expected time of what is left of it."""
    latest_begin_s: float | None = None
    """With a deadline: when it must continue."""
    risky_s: float | None = None
    """With a deadline: when it is at risk (`deadlines.risky_from_s`)."""

    @property
    def order(self) -> tuple[bool, float, int]:
        return (not self.is_begun, -self.left_s, self.number)

    @property
    def is_dated(self) -> bool:
        """Whether it can be late: it has a deadline, and segments left to render."""
        return self.latest_begin_s is not None and self.queue_key.size != FINISHING

    @property
    def urgency(self) -> tuple[bool, float, int]:
        assert self.latest_begin_s is not None
        return (False, self.latest_begin_s, self.number)


_HeapItem = tuple[tuple[bool, float, int], int, JobKey]
"""(order, serial number of the entry, film)."""


@dataclass
class _Level:
    by_key: dict[QueueKey, list[_HeapItem]] = field(default_factory=dict)
    by_setting: dict[tuple[QueueKey, Setting], list[_HeapItem]] = field(default_factory=dict)
    dated: list[_HeapItem] = field(default_factory=list)
    """By urgency."""
    risky: list[_HeapItem] = field(default_factory=list)
    """By the time from which a film is at risk."""
    groups: dict[int, dict[QueueKey, None]] = field(default_factory=dict)
    """Lanes by size of their groups, where that is above 1."""
    num_films: int = 0
    dated_left_s: float = 0.0
    num_dated: int = 0


_EMPTY = _Level()


@dataclass(slots=True)
class _Waiting:
    entry: QueueEntry
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
        self._waiting: dict[JobKey, _Waiting] = {}
        self._serials = count()
        self.num_workers_wanted = 0
        """Of all films that wait, in groups of the size of their queue."""
        self.group_changes = 0
        """Counts the comings and goings of films that need groups."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, film: JobKey) -> bool:
        return film in self._waiting

    def entry(self, film: JobKey) -> QueueEntry:
        return self._waiting[film].entry

    def group_sizes(self, level: int) -> Iterable[int]:
        """Sizes above 1 of the groups that films of a level wait for."""
        return self._levels.get(level, _EMPTY).groups

    def group_keys(self, level: int, size: int) -> Iterable[QueueKey]:
        """Queues of a level whose films need groups of that size."""
        return self._levels.get(level, _EMPTY).groups.get(size, ())

    # --- in and out ---

    def push(self, film: JobKey, entry: QueueEntry) -> None:
        """Add a film that is not in the queue."""
        assert film not in self._waiting
        waiting = _Waiting(entry=entry, serial=next(self._serials))
        self._waiting[film] = waiting
        level = self._levels.get(entry.level)
        if level is None:
            level = self._levels[entry.level] = _Level()
            if entry.level not in self._ordered:
                heapq.heappush(self._order, -entry.level)
                self._ordered.add(entry.level)
        key, item = entry.queue_key, (entry.order, waiting.serial, film)
        heapq.heappush(level.by_key.setdefault(key, []), item)
        heapq.heappush(level.by_setting.setdefault((key, entry.setting), []), item)
        if entry.is_dated:
            assert entry.risky_s is not None
            heapq.heappush(level.dated, (entry.urgency, waiting.serial, film))
            heapq.heappush(level.risky, ((False, entry.risky_s, entry.number), waiting.serial, film))
            level.dated_left_s += entry.left_s
            level.num_dated += 1
        level.num_films += 1
        self.num_workers_wanted += key.size
        if key.size > 1:
            self.group_changes += 1
            level.groups.setdefault(key.size, {})[key] = None

    def discard(self, film: JobKey) -> None:
        """Take a film out. Nothing happens when it is not there."""
        waiting = self._waiting.pop(film, None)
        if waiting is None:
            return
        entry, key = waiting.entry, waiting.entry.queue_key
        level = self._levels[entry.level]
        level.num_films -= 1
        self.group_changes += key.size > 1
        if entry.is_dated:
            level.num_dated -= 1
            level.dated_left_s = level.dated_left_s - entry.left_s if level.num_dated else 0.0
        self.num_workers_wanted -= key.size
        if not level.num_films:
            del self._levels[entry.level]
            return
        # Queues and settings come and go: looking for the head empties the heap of one that no film is left in.
        if self._head(level.by_setting[key, entry.setting]) is None:
            del level.by_setting[key, entry.setting]
        if self._head(level.by_key[key]) is None:
            del level.by_key[key]
            if key.size > 1:
                del level.groups[key.size][key]
                if not level.groups[key.size]:
                    del level.groups[key.size]

    def take(self, film: JobKey) -> None:
        """Take out a film to work on it. The first of its queue is counted as passed over when it is another."""
        entry = self._waiting[film].entry
        level = self._levels[entry.level]
        first = self._head(level.by_key[entry.queue_key])
        if first is not None and first != film and self._waiting[first].entry.setting != entry.setting:
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

    def keys(self, level: int) -> Iterator[QueueKey]:
        """Lanes of a level, in the order in which they came to be."""
        return iter(self._levels[level].by_key)

    def num_dated(self, level: int) -> int:
        return self._levels.get(level, _EMPTY).num_dated

    def dated_left_s(self, level: int) -> float:
        """What is left of all films of a level with a deadline."""
        return self._levels.get(level, _EMPTY).dated_left_s

    def first_risky(self, level: int) -> QueueEntry | None:
        """The film of a level that is at risk before all others."""
        found = self._head(self._levels.get(level, _EMPTY).risky)
        return self._waiting[found].entry if found is not None else None

    def dated(self, level: int, most: int) -> list[JobKey]:
        """The `most` films of a level that must continue first."""
        return self._some(self._levels.get(level, _EMPTY).dated, most)

    def first_films(self, level: int, queue_key: QueueKey, most: int) -> list[JobKey]:
        """The `most` first films of a queue."""
        return self._some(self._levels[level].by_key.get(queue_key, []), most)

    def first(self, level: int, queue_key: QueueKey) -> JobKey | None:
        """The first film of a queue."""
        heap = self._levels[level].by_key.get(queue_key)
        return self._head(heap) if heap is not None else None

    def first_order(self, level: int, queue_key: QueueKey) -> tuple[bool, float, int]:
        """The order of the first film of a queue."""
        heap = self._levels[level].by_key[queue_key]
        self._head(heap)
        return heap[0][0]

    def for_setting(self, level: int, queue_key: QueueKey, setting: Setting) -> JobKey | None:
        """The first film of a queue for a setting; None when the queue's first was passed over often enough."""
        found = self._levels[level]
        first = self._head(found.by_key[queue_key])
        if first is not None and self._waiting[first].num_passed_over >= MOST_PASSED_OVER:
            return None
        heap = found.by_setting.get((queue_key, setting))
        return self._head(heap) if heap is not None else None

    def num_before(self, film: JobKey) -> int:
        """How many films have a better place. Looks at all of them: for a person's question, not for every event."""
        own = _rank(self._waiting[film].entry)
        return sum(_rank(waiting.entry) < own for waiting in self._waiting.values())

    def _head(self, heap: list[_HeapItem]) -> JobKey | None:
        while heap:
            current = self._waiting.get(heap[0][2])
            if current is not None and current.serial == heap[0][1]:
                return heap[0][2]
            heapq.heappop(heap)
        return None

    def _some(self, heap: list[_HeapItem], most: int) -> list[JobKey]:
        """The first films of a heap."""
        found: list[_HeapItem] = []
        while len(found) < most and self._head(heap) is not None:
            found.append(heapq.heappop(heap))
        for item in found:
            heapq.heappush(heap, item)
        return [film for _, _, film in found]


def _rank(entry: QueueEntry) -> tuple[int, float, bool, float, int]:
    begin = float("inf") if entry.latest_begin_s is None else entry.latest_begin_s
    return (-entry.level, begin, *entry.order)
