"""Rule: among equals, the share (owner, or the value of a tag) that has had least of the farm for its weight goes next.

Each share has a clock that runs by worker-seconds divided by its weight (start-time fair queueing). A share that
arrives or returns starts at the clock of those present, so that being away earns nothing. Clocks that are less than
`slack_s` apart are equal, so that a loaded model is not dropped for every other segment.
"""

from __future__ import annotations

from collections.abc import Mapping


class ShareBook:
    """The clocks. Every operation is O(1)."""

    def __init__(self, weights: Mapping[str, float], slack_s: float) -> None:
        self._weights = weights
        self._slack_s = slack_s
        self._clocks: dict[str, float] = {}
        self._films: dict[str, int] = {}
        self._latest_s = 0.0
        """The clock of the share that was charged last: where newcomers begin."""
        self.used_s: dict[str, float] = {}
        """Worker-seconds of each share, for people."""

    def arrived(self, share: str) -> None:
        """A film of the share was added."""
        self._films[share] = self._films.get(share, 0) + 1
        if self._films[share] == 1:
            self._clocks[share] = max(self._clocks.get(share, 0.0), self._latest_s)

    def left(self, share: str) -> None:
        """A film of the share ended."""
        self._films[share] -= 1
        if not self._films[share]:
            del self._films[share]

    def charge(self, share: str, worker_s: float) -> None:
        """The share uses the farm (or, negative, did not use what it was charged for)."""
        clock = self._clocks.get(share, self._latest_s)
        if worker_s > 0:
            self._latest_s = clock
        self._clocks[share] = clock + worker_s / self._weights.get(share, 1.0)
        self.used_s[share] = self.used_s.get(share, 0.0) + worker_s

    def turn(self, share: str) -> int:
        """Lower goes first; equal for shares that are about even."""
        return int(self._clocks.get(share, 0.0) // self._slack_s) if self._slack_s > 0 else 0
