"""Trying a store again for as long as it takes, within limits: rendered work is worth more than a few minutes' wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from render_farm.backoff import Backoff
from render_farm.errors import Cancelled, CorruptCheckpointError, StorageError

Result = TypeVar("Result")
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_LOOK_EVERY_S = 0.25


class StoreRetry:
    """Repeats what a store refuses until `patience_s` are spent, all calls together. `stopped` ends the waiting."""

    def __init__(self, patience_s: float, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self._gives_up_s = time.monotonic() + patience_s
        self._stopped = stopped

    def __call__(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which is idempotent. Its last StorageError passes; CorruptCheckpointError at once,
        because waiting repairs nothing."""
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while True:
            try:
                return work()
            except CorruptCheckpointError:
                raise
            except StorageError as error:
                pause_s = backoff.next_s(error)
                if time.monotonic() + pause_s >= self._gives_up_s:
                    raise
            _rest(pause_s, self._stopped)


class SharedPatience:
    """The same for many threads and a store that all of them read. An outage counts from the first call that failed
    until one that failed succeeds; when it has lasted `patience_s`, every call's StorageError passes at once."""

    def __init__(
        self,
        patience_s: float,
        *,
        stopped: Callable[[], bool] = lambda: False,
        on_outage: Callable[[StorageError], None] = lambda error: None,
    ) -> None:
        """`on_outage` gets the first error of each outage."""
        self._patience_s = patience_s
        self._stopped = stopped
        self._on_outage = on_outage
        self._down_since_s: float | None = None
        self._lock = threading.Lock()

    def __call__(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which is idempotent. Raises Cancelled when `stopped` says so while it waits."""
        backoff, has_failed = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S), False
        while True:
            try:
                result = work()
            except StorageError as error:
                pause_s, has_failed = backoff.next_s(error), True
                if time.monotonic() + pause_s >= self._down_since(error) + self._patience_s:
                    raise
            else:
                if has_failed:
                    self._down_since_s = None
                return result
            _rest(pause_s, self._stopped)

    def _down_since(self, error: StorageError) -> float:
        with self._lock:
            is_first = self._down_since_s is None
            since_s = self._down_since_s = time.monotonic() if self._down_since_s is None else self._down_since_s
        if is_first:
            self._on_outage(error)
        return since_s


def _rest(pause_s: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + pause_s
    while time.monotonic() < until:
        if stopped():
            raise Cancelled("stopped while waiting for a store")
        time.sleep(min(_LOOK_EVERY_S, max(0.0, until - time.monotonic())))
