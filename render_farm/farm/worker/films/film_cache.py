"""The films that a worker has in memory, with their decoders. Others are read from storage."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from render_farm.errors import ClusterError
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.films.film_output import FilmOutput
from render_farm.planning.memory import FILMS_AT_ONCE
from render_farm.storage.checkpoints import StoredFilm, begin_film, continue_film, load_film
from render_farm.storage.store import Store

if TYPE_CHECKING:
    from render_farm.engine.conditioning.conditioning import Conditioning


class CheckpointBehindError(ClusterError):
    """Storage holds fewer good segments than the farm thought; they are rendered again from there."""

    def __init__(self, message: str, segments_done: int) -> None:
        super().__init__(message)
        self.segments_done = segments_done


@dataclass
class CachedFilm:
    """A film in the memory of this worker."""

    state: StoredFilm
    place: str
    """The output that it is stored in."""
    latents: list[np.ndarray] = field(default_factory=list)
    output: FilmOutput | None = None
    is_finishing: bool = False
    """It is being decoded and published: it must not be dropped to make room."""
    conditioning: Conditioning | None = None
    """Its inputs as latents, once a segment needed them."""


class FilmCache:
    """See the module. For several threads."""

    def __init__(self) -> None:
        self._films: OrderedDict[str, CachedFilm] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, work_key: str) -> CachedFilm:
        return self._films[work_key]

    def film(self, store: Store, task: FilmTask) -> CachedFilm:
        """A film, read from storage when it is not here. The least recently used one makes room."""
        with self._lock:
            film = self._films.get(task.work_key)
            if film is not None and film.place == task.output:
                self._films.move_to_end(task.work_key)
                return film
        keys = task.plan.segment_keys
        begin_film(store, task.work_key, keys)  # from here on `gc` keeps what is found
        loaded = load_film(store, task.work_key, keys)
        other, film = film, CachedFilm(state=loaded.state, place=task.output, latents=list(loaded.latents))
        with self._lock:
            self._films[task.work_key] = film
            self._films.move_to_end(task.work_key)
            idle = [key for key, one in self._films.items() if not one.is_finishing and key != task.work_key]
            evicted = [self._films.pop(key) for key in idle[: max(0, len(self._films) - FILMS_AT_ONCE)]]
        if other is not None and not other.is_finishing:
            evicted.append(other)
        for old in evicted:
            if old.output is not None:
                old.output.remove()
        return film

    def with_segments(self, store: Store, task: FilmTask, num_segments: int) -> CachedFilm:
        """The film with at least `num_segments` segments. `CheckpointBehindError` when storage has fewer."""
        known = self._films.get(task.work_key)
        is_known = known is not None and known.place == task.output
        film = self.film(store, task)
        is_ahead = film.output is not None and film.output.num_segments > len(film.latents)  # of what could be stored
        if is_known and not is_ahead:
            # Another worker may have rendered some of it since, for this film or for one that begins alike.
            found = continue_film(store, film.state, film.latents)
            film.state, film.latents = found.state, list(found.latents)
        if is_known and (is_ahead or len(film.latents) < num_segments):
            return self.reread(store, task, num_segments)
        self.check_segments(film, num_segments, task)
        return film

    def reread(self, store: Store, task: FilmTask, num_segments: int) -> CachedFilm:
        """The film as storage has it now, with at least `num_segments` segments."""
        self.forget(task.work_key)
        film = self.film(store, task)
        self.check_segments(film, num_segments, task)
        return film

    def forget(self, work_key: str) -> None:
        """Drop a film, and what its decoder has written."""
        with self._lock:
            film = self._films.pop(work_key, None)
        if film is not None and film.output is not None:
            film.output.remove()

    def check_segments(self, film: CachedFilm, num_segments: int, task: FilmTask) -> None:
        """Raises `CheckpointBehindError` when `film` has fewer segments."""
        if len(film.latents) >= num_segments:
            return
        self.forget(task.work_key)
        reasons = "; ".join(film.state.problems) or "no problem was reported"
        raise CheckpointBehindError(
            f"film {task.work_key}: {num_segments} segments were expected in storage, {len(film.latents)} are good "
            f"({reasons})",
            segments_done=len(film.latents),
        )

    def forget_all(self) -> None:
        """Drop every film."""
        for work_key in list(self._films):
            self.forget(work_key)
