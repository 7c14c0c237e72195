"""Whose turn it is to decode on a device: one decoder at a time, next to the denoising."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from render_farm.engine.decoding.tiles import FrameDecoder


class DecodingTurns:
    """The decoders of an engine. On a GPU they share a stream of their own, so that a frame does not wait for all that
    the denoiser has queued. The features of those that are not decoding lie in the host's memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._lock = Lock()
        self._last: weakref.ref[FrameDecoder] | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the device's stream for decoding. Only in it may tensors of a decoder be made."""
        with self._lock, torch.cuda.stream(self._stream):  # None: no stream is set
            yield

    def take(self, decoder: FrameDecoder) -> None:
        """`decoder` decodes next, within a turn. The one before makes room."""
        last = self._last() if self._last is not None else None
        if last is not decoder:
            if last is not None:
                last.park()
            self._last = weakref.ref(decoder)
