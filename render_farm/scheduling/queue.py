"""The films that could be worked on now, best first; a film for what a worker has loaded is preferred among equals."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from render_farm.scheduling.events import FilmKey

MOST_PASSED_OVER = 16
"""How often in a row the oldest of a model's films may be passed over by equals that need no change of adapters."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A film's place in the queue: higher priority, then earlier deadline, then first come."""

    priority: int
    deadline_s: float | None
    number: int

    @property
    def rank(self) -> tuple[int, float]:
        """What a worker's loaded model and adapters may not overrule."""
        return (-self.priority, float("inf") if self.deadline_s is None else self.deadline_s)

    @property
    def key(self) -> tuple[int, float, int]:
        return (*self.rank, self.number)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a worker must have loaded for a film."""

    model: str
    adapters: tuple[tuple[str, float], ...] = ()
    """(identity, weight) of each LoRA."""


@dataclass
class _Waiting:
    setting: Setting
    place: Place
    num_passed_over: int = 0


_Entry = tuple[tuple[int, float, int], FilmKey]
_Key = TypeVar("_Key", bound=Hashable)


class ReadyQueue:
    """A priority queue with removal; every operation is O(log n) in the films of one model, for each model.

    A film lies in two heaps: that of its model, and that of its model with its adapters.
    """

    def __init__(self) -> None:
        self._by_model: dict[str, list[_Entry]] = {}
        self._by_setting: dict[Setting, list[_Entry]] = {}
        self._waiting: dict[FilmKey, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, film: FilmKey) -> bool:
        return film in self._waiting

    def push(self, film: FilmKey, setting: Setting, place: Place) -> None:
        """Add a film that is not in the queue."""
        assert film not in self._waiting
        self._waiting[film] = _Waiting(setting=setting, place=place)
        heapq.heappush(self._by_model.setdefault(setting.model, []), (place.key, film))
        heapq.heappush(self._by_setting.setdefault(setting, []), (place.key, film))

    def discard(self, film: FilmKey) -> None:
        """Take a film out wherever it is; nothing happens when it is not there."""
        waiting = self._waiting.pop(film, None)
        if waiting is not None:
            # Settings come and go with runs: the heap of one that no film needs any more is dropped by looking.
            self._first(self._by_setting, waiting.setting)

    def take(self, film: FilmKey) -> None:
        """Take out a film to work on it. The oldest of its equals is counted as passed over when it is another."""
        taken = self._waiting[film]
        self.discard(film)
        oldest = self._first(self._by_model, taken.setting.model)
        if oldest is not None and self._waiting[oldest].place.key < taken.place.key:
            self._waiting[oldest].num_passed_over += 1

    def num_before(self, film: FilmKey) -> int:
        """How many films come before this one. Looks at all of them: for a person's question, not for every event."""
        own = self._waiting[film].place.key
        return sum(waiting.place.key < own for waiting in self._waiting.values())

    def best(self, *, loaded: Setting | None, eligible: Callable[[FilmKey], bool]) -> FilmKey | None:
        """The best film for a worker that has `loaded`, left in the queue; ineligible ones are passed over.

        Rank comes first, then a loaded model, then loaded adapters, then age; but a film of the loaded model that was
        passed over `MOST_PASSED_OVER` times goes before films with the loaded adapters.
        """
        heads = []
        for model in list(self._by_model):
            head = self._first(self._by_model, model, eligible)
            if head is not None:
                place = self._waiting[head].place
                heads.append((place.rank, loaded is None or model != loaded.model, place.number, head))
        if not heads:
            return None
        rank, is_other_model, _, film = min(heads)
        if loaded is None or is_other_model or self._waiting[film].num_passed_over >= MOST_PASSED_OVER:
            return film
        same = self._first(self._by_setting, loaded, eligible)
        return same if same is not None and self._waiting[same].place.rank == rank else film

    def _first(
        self, heaps: dict[_Key, list[_Entry]], name: _Key, eligible: Callable[[FilmKey], bool] = lambda film: True
    ) -> FilmKey | None:
        """The best eligible film of one heap; what is outdated in it is removed, and the heap itself when empty."""
        heap, passed = heaps.get(name, []), []
        found = None
        while heap:
            key, film = heap[0]
            current = self._waiting.get(film)
            if current is None or current.place.key != key:
                heapq.heappop(heap)
                continue
            if eligible(film):
                found = film
                break
            passed.append(heapq.heappop(heap))
        for entry in passed:
            heapq.heappush(heap, entry)
        if not heap:
            heaps.pop(name, None)
        return found
