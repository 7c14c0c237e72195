"""`Pace`: how fast a run is rendered, and the time that is left."""

from __future__ import annotations

import time
from collections import deque

_RATE_OVER_S = 20.0


class Pace:
    """Work is counted in token passes. It may grow and shrink during the run. Times are `time.monotonic`'s."""

    def __init__(self) -> None:
        self.work_left = 0.0
        self.steps_made = 0
        self._work_done = 0.0
        """Since the first step."""
        self._first_step_s: float | None = None
        self._recent: deque[tuple[float, int]] = deque()
        """Time and number of the steps of the last seconds."""

    def stepped(self, num_steps: int, work: float) -> None:
        """So many steps were made, which were so much of the work."""
        now = time.monotonic()
        if self._first_step_s is None:
            self._first_step_s = now
        self.work_left -= work
        self._work_done += work
        self.steps_made += num_steps
        self._recent.append((now, num_steps))
        while self._recent[0][0] < now - _RATE_OVER_S:
            self._recent.popleft()

    @property
    def steps_per_s(self) -> float:
        """Over the last seconds. 0 before there are two reports."""
        if len(self._recent) < 2:
            return 0.0
        span = time.monotonic() - self._recent[0][0]
        return round(sum(number for _, number in self._recent) / span, 2) if span > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until all work is done, by the pace since the first step. None before there is one."""
        if self._first_step_s is None:
            return None
        span = time.monotonic() - self._first_step_s
        return round(max(0.0, self.work_left) * span / self._work_done, 1) if self._work_done > 0 and span > 1 else None
