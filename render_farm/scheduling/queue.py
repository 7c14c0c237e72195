"""The films that could be worked on now, best first; one heap a model so that a loaded model can be preferred."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from render_farm.scheduling.events import FilmKey


@dataclass(frozen=True, kw_only=True)
class Place:
    """A film's place in the queue: higher priority, then earlier deadline, then first come."""

    priority: int
    deadline_s: float | None
    number: int

    @property
    def rank(self) -> tuple[int, float]:
        """What a loaded model may not overrule."""
        return (-self.priority, float("inf") if self.deadline_s is None else self.deadline_s)

    @property
    def key(self) -> tuple[int, float, int]:
        return (*self.rank, self.number)


class ReadyQueue:
    """A priority queue with removal; every operation is O(log n) in the films of one model."""

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[tuple[int, float, int], FilmKey]]] = {}
        self._places: dict[FilmKey, tuple[str, Place]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, film: FilmKey) -> bool:
        return film in self._places

    def push(self, film: FilmKey, model: str, place: Place) -> None:
        """Add a film that is not in the queue."""
        assert film not in self._places
        self._places[film] = (model, place)
        heapq.heappush(self._heaps.setdefault(model, []), (place.key, film))

    def discard(self, film: FilmKey) -> None:
        """Take a film out wherever it is; nothing happens when it is not there."""
        self._places.pop(film, None)

    def best(self, *, loaded_model: str | None, eligible: Callable[[FilmKey], bool]) -> FilmKey | None:
        """The best film for a worker with `loaded_model`, left in the queue; ineligible ones are passed over."""
        heads = [
            (place.rank, model != loaded_model, place.number, film)
            for model in self._heaps
            for film, place in self._first(model, eligible)
        ]
        return min(heads)[3] if heads else None

    def _first(self, model: str, eligible: Callable[[FilmKey], bool]) -> Iterator[tuple[FilmKey, Place]]:
        heap, passed = self._heaps[model], []
        while heap:
            key, film = heap[0]
            current = self._places.get(film)
            if current is None or current[1].key != key or current[0] != model:
                heapq.heappop(heap)
                continue
            if eligible(film):
                yield film, current[1]
                break
            passed.append(heapq.heappop(heap))
        for entry in passed:
            heapq.heappush(heap, entry)
