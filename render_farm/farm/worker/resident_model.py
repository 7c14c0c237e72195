"""The one model that a worker has in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from render_farm.engine.options import EngineOptions
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.segment_inputs import KnownTexts
from render_farm.media.fetching.places import check_model_uri

if TYPE_CHECKING:
    from render_farm.engine import Engine


def load_libraries() -> None:
    """Import what every model needs: torch and diffusers take seconds. `render_farm.engine` alone imports neither."""
    import render_farm.engine.engine  # noqa: F401


class ResidentModel:
    """Loads a model when a film needs it and drops the one before. Several threads may share it."""

    def __init__(
        self,
        *,
        device: str,
        dtype: str | None,
        num_threads: int | None,
        cache_folder: str | None,
        options: EngineOptions | None,
    ) -> None:
        self.device = device
        self.texts = KnownTexts()
        """Embeddings by this model."""
        self._dtype = dtype
        self._num_threads = num_threads
        self._cache_folder = Path(cache_folder) if cache_folder else None
        self._options = options
        self._engine: Engine | None = None
        self._name = ""
        self._loading_s: float | None = None
        self._lock = threading.Lock()

    def engine(self, task: FilmTask, on_alive: Callable[[], None] | None = None) -> Engine:
        """The engine of the task's model, loaded if another model was here. InputError for a model from a place that is
        not allowed. `on_alive` is called while its files are fetched."""
        if task.model_is_named:  # a link may have changed since the run was prepared, and machines differ
            check_model_uri(task.model, task.limits)
        with self._lock:
            if self._engine is None or self._name != task.model:
                self._engine = None  # its memory is free before the next one takes some
                self._engine, self._name = self._load(task, on_alive), task.model
            return self._engine

    def take_loading_s(self) -> float | None:
        """Seconds that loading the model took. None when that was reported already."""
        loading_s, self._loading_s = self._loading_s, None
        return loading_s

    def _load(self, task: FilmTask, on_alive: Callable[[], None] | None) -> Engine:
        from render_farm.engine import load_engine

        if self._num_threads:
            import torch

            torch.set_num_threads(self._num_threads)
        started = time.monotonic()
        self.texts = KnownTexts()
        engine = load_engine(
            task.model,
            device=self.device,
            dtype=self._dtype,
            with_text_encoder=False,
            cache_folder=self._cache_folder,
            options=self._options,
            limits=task.limits,
            on_alive=on_alive,
        )
        self._loading_s = time.monotonic() - started
        return engine
