"""Reacts at once to a signal in a process whose main thread is busy in C++, as a Ray worker's is. Python runs its
handlers between two steps of the main thread's Python code, which may be never. Its wake-up pipe is written at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def call_on_signal(number: int, notice: Callable[[], None]) -> bool:
    """Call `notice` in its own thread whenever signal `number` comes, and do nothing else. Ray's own handler would end
    the process during its work, as soon as the main thread runs a line of Python. Returns False, and changes nothing,
    outside the main thread, where Python does not allow this."""
    if threading.current_thread() is not threading.main_thread():
        return False
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(number, lambda *_: None)

    def watch() -> None:
        while numbers := os.read(reader, 64):
            if number in numbers:
                notice()

    threading.Thread(target=watch, name=f"signal-{number}", daemon=True).start()
    return True
