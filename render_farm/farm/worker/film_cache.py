"""The films that a worker has in memory, with their decoders; one that is not is read from storage."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from render_farm.errors import ClusterError
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.film_output import FilmOutput
from render_farm.planning.memory import FILMS_AT_ONCE
from render_farm.storage.checkpoints import StoredFilm, load_film
from render_farm.storage.layout import FilmKeys
from render_farm.storage.store import Store

if TYPE_CHECKING:
    from render_farm.engine.conditioning.conditioning import Conditioning


class CheckpointBehindError(ClusterError):
    """Storage holds fewer good segments than the farm thought; they are rendered again from there."""

    def __init__(self, message: str, segments_done: int) -> None:
        super().__init__(message)
        self.segments_done = segments_done


@dataclass
class FilmHere:
    """A film as this worker has it in memory."""

    state: StoredFilm
    latents: list[np.ndarray] = field(default_factory=list)
    output: FilmOutput | None = None
    is_finishing: bool = False
    """It is being decoded and published: it must not be dropped to make room."""
    conditioning: Conditioning | None = None
    """Its inputs as latents, once a segment needed them."""


class FilmCache:
    """See the module. For several threads."""

    def __init__(self) -> None:
        self._films: OrderedDict[str, FilmHere] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, film: str) -> FilmHere:
        return self._films[film]

    def film(self, store: Store, task: FilmTask) -> FilmHere:
        """A film, read from storage when it is not here. The one that was not asked for longest makes room."""
        with self._lock:
            film = self._films.get(task.film)
            if film is not None:
                self._films.move_to_end(task.film)
                return film
        loaded = load_film(store, task.film)
        film = FilmHere(state=loaded.state, latents=list(loaded.latents))
        with self._lock:
            self._films[task.film] = film
            idle = [name for name, here in self._films.items() if not here.is_finishing and name != task.film]
            evicted = [self._films.pop(name) for name in idle[: max(0, len(self._films) - FILMS_AT_ONCE)]]
        for old in evicted:
            if old.output is not None:
                old.output.remove()
        return film

    def begun(self, store: Store, task: FilmTask, num_segments: int) -> FilmHere:
        """The film with `num_segments` segments at least."""
        film = self.film(store, task)
        is_ahead = film.output is not None and film.output.num_segments > len(film.latents)  # of what could be stored
        next_state = FilmKeys(film=task.film).state(film.state.number + 1)
        if is_ahead or len(film.latents) < num_segments or store.exists(next_state):
            self.forget(task.film)  # it was rendered elsewhere since it was here: read it again
            film = self.film(store, task)
        self.check_begun(film, num_segments, task)
        return film

    def forget(self, film: str) -> None:
        """Drop a film, and what its decoder has written."""
        with self._lock:
            here = self._films.pop(film, None)
        if here is not None and here.output is not None:
            here.output.remove()

    def check_begun(self, film: FilmHere, num_segments: int, task: FilmTask) -> None:
        """Raises `CheckpointBehindError` when `film` has fewer segments."""
        if len(film.latents) >= num_segments:
            return
        self.forget(task.film)
        reasons = "; ".join(film.state.problems) or "no problem was reported"
        raise CheckpointBehindError(
            f"film {task.film}: {num_segments} segments were expected in storage, {len(film.latents)} are good "
            f"({reasons})",
            segments_done=len(film.latents),
        )

    def forget_all(self) -> None:
        """Drop every film."""
        for film in list(self._films):
            self.forget(film)
