"""Can this machine do a worker's work? Asked before its first film and after a fault, in about a second."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from render_farm.errors import HostUnfitError, MediaError, StorageFullError
from render_farm.media.mp4 import Mp4Writer
from render_farm.storage.failures import from_os_error
from render_farm.storage.open import open_store
from render_farm.storage.patience import StoreRetry
from render_farm.storage.probe import round_trip
from render_farm.storage.scratch import make_folder

_LEAST_FREE_BYTES = 64 << 20
_NUM_FRAMES = 8
_SIDE = 64
_STORE_PATIENCE_S = 2.0


def probe_host(outputs: Iterable[str]) -> None:
    """Encodes a few frames on this machine's disk, and writes, reads and deletes an object of each of `outputs`.

    Raises `HostUnfitError` for what is wrong with the machine, and the `StorageError` of a store that does not answer:
    that one may be everybody's.
    """
    try:
        folder = make_folder()
    except OSError as error:
        raise HostUnfitError(f"nothing can be written to its temporary folder: {error.strerror}") from error
    try:
        _encode(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for output in outputs:
        StoreRetry(_STORE_PATIENCE_S)(partial(round_trip, open_store(output)))


def _encode(folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < _LEAST_FREE_BYTES:
        raise HostUnfitError(
            f"{folder.parent} has {free_bytes >> 20:,} MiB free, and a worker needs {_LEAST_FREE_BYTES >> 20} or more",
            advice="free some space there, or set another temporary folder (TMPDIR)",
        )
    frames = np.random.default_rng(0).integers(0, 256, (_NUM_FRAMES, _SIDE, _SIDE, 3), dtype=np.uint8)
    try:
        with Mp4Writer(folder / "probe.mp4", _SIDE, _SIDE, fps=24) as writer:
            for frame in frames:
                writer.append(frame)
    except (MediaError, StorageFullError) as error:
        raise HostUnfitError(f"it cannot encode a video: {error.message}", advice=error.advice) from error
    except OSError as error:
        raise HostUnfitError(f"it cannot encode a video: {from_os_error(error, 'write', str(folder))}") from error
