"""Requests by people: pause, resume, retry, priority. `FilmLifecycle` cancels, because failing runs cancel too."""

from __future__ import annotations

from collections.abc import Iterator

from render_farm.scheduling import events as ev
from render_farm.scheduling.aging import level_of
from render_farm.scheduling.dispatch import Dispatcher
from render_farm.scheduling.events import JobKey
from render_farm.scheduling.farm_state import FarmState, FilmState
from render_farm.scheduling.film_lifecycle import FilmLifecycle
from render_farm.scheduling.states import State


class Requests:
    """See the module. Unknown films, and films in a state that the request does not apply to, are left alone."""

    def __init__(self, state: FarmState, dispatcher: Dispatcher, films: FilmLifecycle, aging_s: float) -> None:
        self._state = state
        self._dispatcher = dispatcher
        self._films = films
        self._aging_s = aging_s

    def pause(self, run_id: str) -> None:
        self._state.run(run_id).paused = True
        self._films.hold(run_id)

    def resume(self, run_id: str) -> None:
        self._state.run(run_id).paused = False
        self._films.release(run_id)

    def retry(self, event: ev.RetryFilms) -> None:
        run = self._state.runs[event.run_id]
        for key, film in self._named(event):
            if run.ended or run.stopping:
                continue
            film.cancelled_for = ""
            if film.state not in (State.FAILED, State.CANCELLED):
                continue
            film.waits = film.attempts = film.fallback_level = 0
            film.avoid = film.faults = ()
            self._state.move(key, State.WAITING)
            self._dispatcher.shares.arrived(film.spec.share)
            self._films.enqueue(key)

    def set_priority(self, event: ev.SetPriority) -> None:
        queue = self._dispatcher.queue
        for key, film in self._named(event):
            if film.state.ended:
                continue
            waits = key in queue
            queue.discard(key)
            film.priority = event.priority
            self._state.relevel(key, level_of(event.priority, film.added_s, self._aging_s))
            if waits:
                queue.push(key, self._dispatcher.entry(key))

    def _named(self, event: ev.RetryFilms | ev.SetPriority) -> Iterator[tuple[JobKey, FilmState]]:
        for job_id in event.job_ids:
            key = JobKey(event.run_id, job_id)
            if key in self._state.films:
                yield key, self._state.films[key]
