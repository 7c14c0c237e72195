"""What ends a run before its films are done: Ctrl-C and the like, and its time limit."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from render_farm.errors import TimeLimitError

EXIT_TIMED_OUT = TimeLimitError.exit_code
EXIT_INTERRUPTED = 130


class RunClock:
    """The run's time limit."""

    def __init__(self, timeout_s: float | None) -> None:
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        return math.inf if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    @property
    def is_over(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at


class Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP (a terminal that closes) raise KeyboardInterrupt and are remembered: one that is
    raised where Python ignores exceptions (a callback of a library) is still seen by the next `check`. So is one that a
    library's own handler got, as Ray's does while Ray starts. The end of the run's time raises it once, too, whatever
    blocks then."""

    def __init__(self, clock: RunClock) -> None:
        self._clock = clock
        self._is_signalled = False
        self._thread: int | None = None
        """The one that handles signals."""
        self._rings = False
        """The signal that comes next is the alarm's."""
        self._is_time_told = False
        self._arrived: int | None = None
        """The pipe into which Python writes the number of each signal, whoever handles it."""

    @property
    def exit_code(self) -> int:
        """Of a run that was interrupted."""
        return EXIT_INTERRUPTED if self._is_signalled or not self._clock.is_over else EXIT_TIMED_OUT

    @property
    def reason(self) -> str:
        """Why the run ends."""
        if self.exit_code == EXIT_TIMED_OUT:
            return "the run's time limit was reached"
        return "interrupted; the same command again continues it"

    def check(self) -> None:
        """Raises KeyboardInterrupt when the run is to end."""
        self._is_signalled |= self._has_arrived()
        if self._is_signalled or self._clock.is_over:
            self._is_time_told |= threading.get_ident() == self._thread
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """For the length of a block, where signals can be handled (the main thread). Elsewhere `check` alone does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous, self._thread = self.handle_again(), threading.get_ident()
        self._arrived, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        previous_pipe = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
        alarm = threading.Timer(min(self._clock.left_s, threading.TIMEOUT_MAX), self._ring, [self._thread])
        alarm.daemon = True
        if self._clock.left_s < math.inf:
            alarm.start()
        try:
            yield
        finally:
            alarm.cancel()
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(previous_pipe)
            self._is_signalled |= self._has_arrived()
            pipe, self._arrived = self._arrived, None
            os.close(pipe)
            os.close(into)

    def _has_arrived(self) -> bool:
        """Whether a signal came that ends the run. SIGINT may be the alarm's, and no library handles it."""
        pipe = self._arrived
        if pipe is None:
            return False
        with contextlib.suppress(OSError):  # nothing came, or another thread has just closed it
            return not {signal.SIGTERM, signal.SIGHUP}.isdisjoint(os.read(pipe, 4096))
        return False

    def handle_again(self) -> dict[int, Any]:
        """Set the handlers, after a library has set its own. Returns those that were set."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else `nohup` started this
            numbers.append(signal.SIGHUP)
        return {number: signal.signal(number, self._handle) for number in numbers}

    def _ring(self, thread: int) -> None:
        self._rings = True
        signal.pthread_kill(thread, signal.SIGINT)  # SIGALRM is left to others

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._rings:
            self._is_signalled = True
        elif self._is_time_told:  # `check` saw it first
            self._rings = False
            return
        self._rings, self._is_time_told = False, True
        raise KeyboardInterrupt
