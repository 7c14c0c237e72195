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


_Key = tuple[str, str]
"""Output and key of a film: runs of a shared cluster may render equal films to two outputs."""


def _key(task: FilmTask) -> _Key:
    return task.output, task.pixels_key


class CheckpointBehindError(ClusterError):
    """Storage holds fewer good segments than the farm thought; they are rendered again from there."""

    def __init__(self, message: str, segments_done: int) -> None:
        super().__init__(message)
        self.segments_done = segments_done


@dataclass
class CachedFilm:
    """A film in the memory of this worker."""

    state: StoredFilm
    latents: list[np.ndarray] = field(default_factory=list)
    output: FilmOutput | None = None
    is_finishing: bool = False
    """It is being decoded and published: it must not be dropped to make room."""
    conditioning: dict[int, Conditioning] = field(default_factory=dict)
    """The inputs of its takes as latents, once a segment needed them, by the segment with which the take starts."""


class FilmCache:
    """See the module. For several threads."""

    def __init__(self) -> None:
        self._films: OrderedDict[_Key, CachedFilm] = OrderedDict()
        self._lock = threading.Lock()

    def film(self, store: Store, task: FilmTask) -> CachedFilm:
        """A film, read from storage when it is not here. The least recently used one makes room."""
        with self._lock:
            film = self._films.get(_key(task))
            if film is not None:
                self._films.move_to_end(_key(task))
                return film
        keys = task.plan.segment_keys
        begin_film(store, task.work_key, keys, others=task.tried_keys)  # from here on `gc` keeps what is found
        is_rows_own = task.plan.render_key == task.render_key  # an earlier version rendered no other seeds
        loaded = load_film(store, task.work_key, keys, with_earlier=is_rows_own)
        film = CachedFilm(state=loaded.state, latents=list(loaded.latents))
        with self._lock:
            self._films[_key(task)] = film
            idle = [key for key, one in self._films.items() if not one.is_finishing and key != _key(task)]
            evicted = [self._films.pop(key) for key in idle[: max(0, len(self._films) - FILMS_AT_ONCE)]]
        for old in evicted:
            if old.output is not None:
                old.output.remove()
        return film

    def with_segments(self, store: Store, task: FilmTask, num_segments: int) -> CachedFilm:
        """The film with at least `num_segments` segments. `CheckpointBehindError` when storage has fewer."""
        is_known = _key(task) in self._films
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
        self.forget(task)
        film = self.film(store, task)
        self.check_segments(film, num_segments, task)
        return film

    def forget(self, task: FilmTask) -> None:
        """Drop a film, and what its decoder has written."""
        self._drop(_key(task))

    def _drop(self, key: _Key) -> None:
        with self._lock:
            film = self._films.pop(key, None)
        if film is not None and film.output is not None:
            film.output.remove()

    def check_segments(self, film: CachedFilm, num_segments: int, task: FilmTask) -> None:
        """Raises `CheckpointBehindError` when `film` has fewer segments."""
        if len(film.latents) >= num_segments:
            return
        self.forget(task)
        reasons = "; ".join(film.state.problems) or "no problem was reported"
        raise CheckpointBehindError(
            f"film {task.work_key}: {num_segments} segments were expected in storage, {len(film.latents)} are good "
            f"({reasons})",
            segments_done=len(film.latents),
        )

    def forget_all(self) -> None:
        """Drop every film."""
        for key in list(self._films):
            self._drop(key)
