"""Metrics of a worker's process: time, memory and traffic. Its own thread reports them every few seconds, so that they
cost the steps of a segment nothing."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from render_farm.observability.metrics import (
    BUSY_SECONDS,
    KV_CACHE_BYTES,
    STORAGE_BYTES,
    STORAGE_ERRORS,
    WORKER_MEMORY,
    WORKER_SECONDS,
    place_of,
)
from render_farm.observability.sink import MetricSink
from render_farm.storage.meter import StorageMeter, Traffic

_EVERY_S = 2.0
_STATM = Path("/proc/self/statm")


class Watched(Protocol):
    """The part of `FilmWorker` that is reported."""

    name: str
    meter: StorageMeter

    @property
    def kv_cache_bytes(self) -> int: ...

    @property
    def engine_s(self) -> float: ...


class WorkerMetrics:
    """Starts at once, ends with `close` or the process."""

    def __init__(self, worker: Watched, sink: MetricSink, *, every_s: float = _EVERY_S) -> None:
        self._worker = worker
        self._sink = sink
        self._slot = place_of(worker.name)
        self._every_s = every_s
        self._since = time.monotonic()
        self._engine_s = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Report one last time, and stop."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closed.wait(self._every_s):
            self.report()
        self.report()

    def report(self) -> None:
        """Report the present values. Called by the thread."""
        now, engine_s, slot = time.monotonic(), self._worker.engine_s, self._slot
        self._sink.add(WORKER_SECONDS, now - self._since, worker=slot)
        self._sink.add(BUSY_SECONDS, engine_s - self._engine_s, worker=slot)
        self._since, self._engine_s = now, engine_s
        self._sink.set(KV_CACHE_BYTES, self._worker.kv_cache_bytes, worker=slot)
        self._sink.set(WORKER_MEMORY, _resident_bytes(), worker=slot, kind="host")
        reserved_bytes = _device_bytes()
        if reserved_bytes is not None:
            self._sink.set(WORKER_MEMORY, reserved_bytes, worker=slot, kind="device")
        report_traffic(self._sink, self._worker.meter.take())


def report_traffic(sink: MetricSink, traffic: Traffic) -> None:
    """Count a store's bytes and errors."""
    for direction, num_bytes in traffic.num_bytes.items():
        sink.add(STORAGE_BYTES, num_bytes, direction=direction)
    for (operation, outcome), number in traffic.num_errors.items():
        sink.add(STORAGE_ERRORS, number, operation=operation, outcome=outcome)


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _device_bytes() -> int | None:
    """Memory that torch has reserved on the GPU. None before it uses one. This thread never imports torch itself."""
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return int(cuda.memory_reserved()) if cuda is not None and cuda.is_initialized() else None
