"""Counts the bytes that a store moves and its failed requests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

READ, WRITTEN = "read", "written"
TRIED_AGAIN, GIVEN_UP = "tried_again", "given_up"


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Traffic over some time."""

    num_bytes: Mapping[str, int] = field(default_factory=dict)
    """`read` and `written`."""
    num_errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Requests that failed, by operation and outcome (`tried_again`, `given_up`)."""


class StorageMeter:
    """Given to `open_store`; several stores may share one, in any threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()

    def moved(self, direction: str, num_bytes: int) -> None:
        """Bytes of an object were `read` or `written`."""
        with self._lock:
            self._bytes[direction] += num_bytes

    def failed(self, operation: str, outcome: str) -> None:
        """A request failed."""
        with self._lock:
            self._errors[operation, outcome] += 1

    def take(self) -> Traffic:
        """The traffic since the last call."""
        with self._lock:
            taken = Traffic(num_bytes=dict(self._bytes), num_errors=dict(self._errors))
            self._bytes.clear()
            self._errors.clear()
        return taken
