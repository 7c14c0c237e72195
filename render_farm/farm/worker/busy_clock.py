"""Time that a worker spends in its engine: denoising, decoding, or both at once (which counts once)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class BusyClock:
    """Adds up the time in which at least one thread is inside `busy`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._since = 0.0
        self._total_s = 0.0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the block."""
        with self._lock:
            if self._inside == 0:
                self._since = time.monotonic()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._total_s += time.monotonic() - self._since

    @property
    def total_s(self) -> float:
        """Seconds so far, including a block that is still open."""
        with self._lock:
            return self._total_s + (time.monotonic() - self._since if self._inside else 0.0)
