"""Trying a store again for as long as it takes, within limits: rendered work is worth more than a few minutes' wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from render_farm.errors import Cancelled, CorruptCheckpointError, StorageError

Result = TypeVar("Result")
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_LOOK_EVERY_S = 0.25


class Patience:
    """Repeats what a store refuses until `patience_s` are spent, all calls together. `stopped` ends the waiting."""

    def __init__(self, patience_s: float, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self._gives_up_s = time.monotonic() + patience_s
        self._stopped = stopped

    def __call__(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which is idempotent. Its last StorageError passes; CorruptCheckpointError at once, for
        waiting mends nothing."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return work()
            except CorruptCheckpointError:
                raise
            except StorageError:
                if time.monotonic() + pause_s >= self._gives_up_s:
                    raise
            self._rest(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _rest(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            if self._stopped():
                raise Cancelled("stopped while a store was waited for")
            time.sleep(min(_LOOK_EVERY_S, pause_s))
