"""The LoRAs of a run, checked before anything is rendered. Each file is read once, however many films name it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

from render_farm.errors import StorageError
from render_farm.media.limits import InputLimits
from render_farm.media.weights import read_weights_header
from render_farm.planning import FilmPlan, with_loras_read
from render_farm.uris import shown_uri

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class SeenLora:
    """What is known of a LoRA for one model without loading it."""

    sha256: str
    warnings: tuple[str, ...]


class LoraShelf:
    """See the module. Threads may share it: whoever asks first looks, the others wait for what it found."""

    def __init__(self, limits: InputLimits, model_cache: str | None) -> None:
        self._limits = limits
        self._cache_folder = Path(model_cache) if model_cache else None
        self._found: dict[Hashable, Future[Any]] = {}
        self._lock = Lock()

    def with_loras(self, plan: FilmPlan) -> FilmPlan:
        """The plan with the digests of its LoRAs, and with warnings about them.

        Raises `InputError` for one that cannot be used with the plan's model, `StorageError` for a store.
        """
        if not plan.job.loras:
            return plan
        seen = [self._seen(plan.spec.name, lora.path) for lora in plan.job.loras]
        return with_loras_read(plan, [lora.sha256 for lora in seen], [line for lora in seen for line in lora.warnings])

    def _seen(self, model: str, path: str) -> SeenLora:
        from render_farm.engine.lora.layout import lay_out

        def look() -> SeenLora:
            header = self._once(("file", path), lambda: read_weights_header(path, self._limits))
            layout = lay_out(path, header, self._once(("model", model), lambda: self._shapes(model)), model=model)
            return SeenLora(sha256=header.sha256, warnings=layout.warnings(shown_uri(path)))

        return self._once((model, path), look)

    def _shapes(self, model: str) -> Mapping[str, tuple[int, int]]:
        from render_farm.engine.lora.linear_layers import linear_shapes_of
        from render_farm.engine.weights.locate import locate_model

        return linear_shapes_of(
            locate_model(model, cache_folder=self._cache_folder, max_bytes=self._limits.max_model_bytes)
        )

    def _once(self, key: Hashable, look: Callable[[], _T]) -> _T:
        """What `look` returned or raised when it was first called for `key`; what a store failed to give is asked for
        again by the next call."""
        with self._lock:
            future = self._found.get(key)
            if mine := future is None:
                future = self._found[key] = Future()
        assert future is not None
        if mine:
            try:
                future.set_result(look())
            except StorageError as error:  # it may be there the next time
                with self._lock:
                    del self._found[key]
                future.set_exception(error)
            except BaseException as error:  # noqa: BLE001  (raised again by `result` below, here and for who waits)
                future.set_exception(error)
        return cast(_T, future.result())
