"""The state of a segment between its steps, as objects in its film's work folder. The engine's `StepKeeper`.

An object's name holds the sha256 of its bytes, so that a torn or flipped one is noticed and set aside. For bit-exact
results, a segment resumes from a state only where `environment_key` is the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from render_farm.errors import NotFoundError, StorageError
from render_farm.storage.layout import FilmKeys
from render_farm.storage.store import Store

if TYPE_CHECKING:
    from render_farm.engine import Engine
    from render_farm.engine.denoising.step_state import StepState
    from render_farm.planning import FilmPlan

_NAME = re.compile(r"(\d{4})-(\d{6})-([0-9a-f]{64})\.safetensors")
_MOST_BYTES = 4 << 30
"""A state with more (large key/value caches) is not stored: it would cost more than it saves."""


def environment_key(engine: Engine, plan: FilmPlan, segment: int) -> str:
    """All that a segment's bits depend on besides its plan: kind of device, dtype, torch and cuDNN, number of threads,
    attention, whether blocks are compiled, and whether keys and values are kept (and so are part of a state)."""
    import torch

    device = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else engine.device.type
    cache = "kept" if engine.cache_plan(plan, segment).keeps else "not kept"
    blocks = "compiled" if engine.compile_plan.compiles else "as they are"
    return (
        f"{device} {engine.dtype} torch {version('torch')} {torch.get_num_threads()} threads, "
        f"cuDNN {torch.backends.cudnn.version()}, {engine.attention_choice.name}, blocks {blocks}, "
        f"keys and values {cache}"
    )


class StepCheckpoints:
    """The states of one segment of one film. `every_s` is how often one is stored, 0 for never. `is_last` tells whether
    the worker ends after a number of steps. The state is stored then in any case."""

    def __init__(
        self, store: Store, work_key: str, segment: int, *, every_s: float, maker: str, is_last: Callable[[int], bool]
    ) -> None:
        self._store = store
        self._work_key = work_key
        self._keys = FilmKeys(film=work_key)
        self._segment = segment
        self._every_s = every_s
        self._maker = maker
        self._is_last = is_last
        self._stored_s = time.monotonic()
        self._row = 0
        self._is_any = every_s > 0
        self.notes: list[str] = []
        """For people, one per line."""

    def resume(self) -> StepState | None:
        """The newest intact state of the segment by the same maker. Damaged ones are removed and noted."""
        stored = self._stored()
        self._is_any |= bool(stored)
        for row, digest, key in sorted(stored, reverse=True):
            try:
                data = self._store.read_bytes(key)
            except NotFoundError:
                continue
            if hashlib.sha256(data).hexdigest() != digest:
                self.notes.append(f"{self._store.uri(key)} is damaged and set aside")
                self._store.delete(key)
                continue
            state = self._parse(data, row)
            if state is not None:
                self._row = row
                self.notes.append(f"segment {self._segment + 1} resumes from step {row}")
                return state
        return None

    def offer(self, num_rows: int, num_bytes: int, make: Callable[[], StepState]) -> None:
        """Store the state when it is time. If the store fails, the checkpoint is lost and the segment is not."""
        due = 0 < self._every_s <= time.monotonic() - self._stored_s
        if not (due or self._is_last(num_rows)) or num_bytes > _MOST_BYTES or num_rows == self._row:
            return
        from safetensors.torch import save

        metadata = {"film": self._work_key, "segment": str(self._segment), "maker": self._maker}
        data = save({name: tensor.contiguous() for name, tensor in make().tensors.items()}, metadata=metadata)
        before = [key for _, _, key in self._listed()]
        try:
            self._store.write_bytes(self._keys.step(self._segment, num_rows, hashlib.sha256(data).hexdigest()), data)
            for key in before:
                self._store.delete(key)
        except StorageError as error:
            self.notes.append(f"a step checkpoint could not be stored: {error}")
        self._row, self._stored_s = num_rows, time.monotonic()

    def clear(self) -> None:
        """The segment is stored, and its steps are no longer needed. What cannot be removed stays until `gc`."""
        try:
            for _, _, key in self._listed() if self._is_any else ():
                self._store.delete(key)
        except StorageError as error:
            self.notes.append(f"step checkpoints could not be removed: {error}")

    def _listed(self) -> list[tuple[int, str, str]]:
        try:
            return self._stored()
        except StorageError:
            return []

    def _stored(self) -> list[tuple[int, str, str]]:
        """(rows done, sha256, key) of the segment's states."""
        found = []
        for key in self._store.list(self._keys.steps):
            match = _NAME.fullmatch(key.rpartition("/")[2])
            if match and int(match.group(1)) == self._segment:
                found.append((int(match.group(2)), match.group(3), key))
        return found

    def _parse(self, data: bytes, row: int) -> StepState | None:
        from safetensors.torch import load

        from render_farm.engine.denoising.step_state import StepState

        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        if (header["film"], header["segment"], header["maker"]) != (self._work_key, str(self._segment), self._maker):
            return None
        return StepState(num_rows=row, tensors=load(data))
