"""The observer of a run, while it renders and at its end. The process that holds the run calls it, so that it is called
even if the run's driver is dead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from render_farm.observability.snapshot import RunSnapshot


class RunObserver(Protocol):
    """Sees one run. Its methods may block, and are called one after another by a thread."""

    def show(self, snapshot: RunSnapshot) -> None:
        """The run as it is now, with the log lines since the last time."""

    def close(self) -> None:
        """No more is coming. Returns when everything is reported."""


class ObserverSource(Protocol):
    """Starts an observer. It travels to the process that holds the run, so it can be pickled."""

    def start(self, on_failure: Callable[[str], None]) -> RunObserver:
        """`on_failure` gets a sentence about each report that failed, in any thread."""
