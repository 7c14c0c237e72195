"""An engine's transformer in the memory mode that a job asks for, or in a smaller one if it does not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch

from render_farm.engine.device import device_errors
from render_farm.engine.lora.branches import Adapters
from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.engine.weights.loading import load_transformer
from render_farm.engine.weights.offloading import check_mode, convert_weights, place, unplace
from render_farm.errors import OutOfMemoryError
from render_farm.memory_mode import MemoryMode, Placement, WeightForm, modes_of

T = TypeVar("T")
_CPU = torch.device("cpu")
_FORGET_AFTER = 16
"""Segments in a smaller mode until a faster one is tried again."""


class ResidentTransformer:
    """Loads the weights when they are first needed, and moves or loads them again when another mode is asked for."""

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        prepare: Callable[[FrameTransformer, MemoryMode], None],
    ) -> None:
        """`prepare` is called with a model that has come into a mode, before it is used."""
        self._prepare = prepare
        self._folder = folder
        self._device = device
        self._dtype = dtype
        self._model: FrameTransformer | None = None
        self._loading = Lock()
        self.adapters = Adapters(device=device, dtype=dtype)
        """Taken off whenever the weights are moved or loaded again."""
        self._too_large: dict[MemoryMode, int] = {}
        """The smallest number of tokens that a mode ran out of memory with."""
        self._num_smaller = 0
        """Calls since then that were made in a smaller mode."""
        self.mode: MemoryMode | None = None
        """Of the weights as they are; None while none are loaded."""

    def model(self, mode: MemoryMode | None = None) -> FrameTransformer:
        """The transformer in `mode`, which names its placement; without one in the mode it has, at first `resident`.

        Raises `ModelError` for weights that cannot be loaded, `MemoryModeError` for a package that is missing; an error
        of the device passes and leaves nothing loaded.
        """
        mode = mode or self.mode or MemoryMode()
        with self._loading:
            if self._model is None or self.mode is None or _weights(mode) != _weights(self.mode):
                self._model = self._moved(mode)
                self._prepare(self._model, mode)
            self.mode = mode
            return self._model

    def give(self, model: FrameTransformer, mode: MemoryMode | None = None) -> None:
        """Use `model`, which is in `mode` (in full on the device when left out), as if it had been loaded."""
        with self._loading:
            self.adapters.remove()
            self._model, self.mode = model, mode or MemoryMode()
            self._prepare(model, self.mode)

    def _moved(self, mode: MemoryMode) -> FrameTransformer:
        check_mode(mode)
        self.adapters.remove()
        model, before = self._model, self.mode
        self._model = self.mode = None
        whole = model is not None and before is not None and before.placement is not Placement.OFFLOAD_DISK
        if model is not None and whole and before is not None and before.weights is mode.weights:
            unplace(model)
        else:
            model = None
            free_memory(self._device)
            straight = mode.placement is Placement.RESIDENT and mode.weights is WeightForm.FULL
            model = load_transformer(self._folder, device=self._device if straight else _CPU, dtype=self._dtype)
            convert_weights(model, mode.weights, device=self._device)
        place(model, mode.placement, device=self._device)
        return model

    def run(
        self,
        asked: MemoryMode,
        work: Callable[[FrameTransformer], T],
        *,
        what: str,
        num_tokens: int,
        steps_down: bool,
        fits: Callable[[MemoryMode], bool],
    ) -> T:
        """`work` with the transformer in the mode that is `asked` for.

        A mode that runs out of memory is tried once more, with what is free put together: `work` is done again from its
        start. `auto` is the fastest mode that `fits` by its estimate and has not run out of memory twice with a window
        of `num_tokens` or fewer lately, and the next smaller one when it does. With `steps_down` false (the others of a
        group would not do it again) that is left to the next call. Raises `OutOfMemoryError` after the last.
        """
        modes = modes_of(asked, self._device.type)
        if self._num_smaller >= _FORGET_AFTER:
            self._too_large.clear()
            self._num_smaller = 0
        fitting = [mode for mode in modes if num_tokens < self._too_large.get(mode, num_tokens + 1)]
        self._num_smaller += len(fitting) < len(modes)
        if len(fitting) > 1:
            fitting = fitting[next((i for i, mode in enumerate(fitting) if fits(mode)), len(fitting) - 1) :]
        reason = ""
        for mode in fitting or modes[-1:]:
            for _ in range(2 if steps_down else 1):
                try:
                    with device_errors(what):
                        return work(self.model(mode))
                except OutOfMemoryError as error:
                    reason = error.message
                # Only here are the error's frames, and what they hold, gone.
                free_memory(self._device)
            self._too_large[mode] = min(num_tokens, self._too_large.get(mode, num_tokens))
            self._num_smaller = 0
            if not steps_down:
                break
        raise OutOfMemoryError(f"{reason} (memory: {' and '.join(map(str, modes))})", advice=_advice(asked))

    @property
    def notes(self) -> tuple[str, ...]:
        """For people: which modes are left out for a while, and in which one the worker renders."""
        if self.mode is None or not self._too_large:
            return ()
        full = " and ".join(map(str, self._too_large))
        return (f"memory: {self.mode}, for {full} ran out of memory; tried again after {_FORGET_AFTER} segments",)


def _weights(mode: MemoryMode) -> tuple[str, str]:
    return mode.placement, mode.weights


def _advice(asked: MemoryMode) -> str:
    smaller = "a smaller height, width or base_num_frames needs less"
    if asked.placement is not Placement.AUTO:
        return f"memory: auto tries the smaller modes too; {smaller}"
    return f"{smaller}, and so do memory: fp8_cast and vae_tiling, which change the film"


def free_memory(device: torch.device) -> None:
    """Give back what no tensor uses any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
