"""Segments that several films have in common are rendered by one of them: who comes second waits.

A film names the keys of its segments where another film may have them, too (`QueuedFilm.segment_keys`). While one of
the films renders such a segment, the others are out of the queue. However it ends, they come back: where it was stored
their worker finds it, and where it failed one of them renders it.
"""

from __future__ import annotations

from render_farm.scheduling.events import JobKey
from render_farm.scheduling.farm_state import FarmState


class SharedSegments:
    """See the module. Nobody waits for a film that is not at work, so nobody waits for ever."""

    def __init__(self, state: FarmState) -> None:
        self._state = state
        self._renderers: dict[str, JobKey] = {}
        """By segment key: the film that renders it now."""
        self._waiting: dict[str, dict[JobKey, None]] = {}
        """By segment key: the films that wait for it."""

    def renderer_of(self, key: JobKey) -> JobKey | None:
        """The other film that renders a film's next segment now."""
        renderer = self._renderers.get(self._next_segment(key))
        return None if renderer == key else renderer

    def wait(self, key: JobKey) -> None:
        """A film waits for the one that renders its next segment."""
        self._waiting.setdefault(self._next_segment(key), {})[key] = None

    def start(self, key: JobKey) -> str:
        """A film starts its next segment. Returns that segment's key; empty when no other film has it."""
        segment = self._next_segment(key)
        if segment:
            self._renderers.setdefault(segment, key)
        return segment

    def end(self, key: JobKey, segment: str) -> list[JobKey]:
        """A film no longer renders a segment. Returns the films that waited for it."""
        if self._renderers.get(segment) != key:
            return []
        del self._renderers[segment]
        return [other for other in self._waiting.pop(segment, ()) if other in self._state.films]

    def _next_segment(self, key: JobKey) -> str:
        film = self._state.films[key]
        keys = film.spec.segment_keys
        return "" if not keys or film.is_rendered else keys[film.segments_done]
