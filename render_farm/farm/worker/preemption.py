"""A worker that is asked to end completes its segment when there is time for that. Otherwise it stops at a step."""

from __future__ import annotations

import time
from collections.abc import Callable


class Preemption:
    """Whether a worker was asked to end, and the time that it has left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._asked_s: float | None = None
        self._within_s: float | None = None

    @property
    def is_asked(self) -> bool:
        return self._asked_s is not None

    def ask(self, within_s: float | None = None) -> None:
        """The worker has to end within `within_s`. None: within the grace time that `leaves_time_for` gets."""
        self._within_s = within_s
        self._asked_s = self.clock()

    def leaves_time_for(self, left_s: float, *, grace_s: float) -> bool:
        """Whether work of `left_s` seconds may still be completed."""
        if self._asked_s is None:
            return True
        within_s = grace_s if self._within_s is None else self._within_s
        return self.clock() + left_s <= self._asked_s + within_s


class LastStep:
    """Decides for each step of a segment whether it has to be the last one here, by the pace of the steps so far. The
    decision on a step is final, so that the stored state is the one at which the worker stops."""

    def __init__(
        self,
        preemption: Preemption,
        num_steps: int,
        *,
        grace_s: float,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_stopped` says whether the call is to end at a step of which the state is stored."""
        self._is_stopped = is_stopped
        self._preemption = preemption
        self._num_steps = num_steps
        self._grace_s = grace_s
        self._first: int | None = None
        self._first_done_s = 0.0
        self._decided = 0, False
        self.usual_step_s = 0.0
        """Of the steps so far but the first, which may compile or load."""
        self.start()

    def start(self) -> None:
        """The first step starts now."""
        self._started_s = self._preemption.clock()

    def __call__(self, step: int) -> bool:
        """`step` steps are done."""
        if self._decided[0] != step:
            now_s = self._preemption.clock()
            if self._first is None:  # those before it were made elsewhere
                self._first, self._first_done_s = step - 1, now_s
            else:
                self.usual_step_s = (now_s - self._first_done_s) / (step - self._first - 1)
            pace_s = (now_s - self._started_s) / (step - self._first)
            left_s = pace_s * (self._num_steps - step)
            must_end = not self._preemption.leaves_time_for(left_s, grace_s=self._grace_s)
            self._decided = step, must_end or (step < self._num_steps and self._is_stopped())
        return self._decided[1]
