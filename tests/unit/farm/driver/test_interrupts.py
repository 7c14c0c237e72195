"""Signals and the time limit raise KeyboardInterrupt, whatever blocks."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from render_farm.farm.driver.interrupts import Interrupts, RunClock


def test_the_end_of_the_time_interrupts_what_blocks_and_does_so_once():
    interrupts = Interrupts(RunClock(0.1))
    started_s = time.monotonic()
    with interrupts.handled():
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
        time.sleep(0.2)
    assert time.monotonic() - started_s < 5
    assert interrupts.exit_code == 13
    assert "time limit" in interrupts.reason


def test_time_that_was_seen_to_be_over_interrupts_nothing_more():
    interrupts = Interrupts(RunClock(0.05))
    with interrupts.handled():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the alarm comes late
        try:
            time.sleep(0.15)
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_remembered_even_where_python_ignores_its_exception(number, request):
    interrupts = Interrupts(RunClock(None))
    before = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    outside = signal.signal(number, before)  # `nohup` ignores SIGHUP
    request.addfinalizer(lambda: signal.signal(number, outside))
    with interrupts.handled():
        interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(number) is before
    assert interrupts.exit_code == 130


def test_a_signal_that_a_librarys_handler_got_is_remembered():
    """Ray sets its own while it starts. What that raises is lost where Python ignores exceptions."""
    interrupts = Interrupts(RunClock(None))
    with interrupts.handled():
        signal.signal(signal.SIGTERM, lambda *_: None)
        interrupts.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert interrupts.exit_code == 130
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_signal_after_the_time_was_over_leaves_at_once():
    interrupts = Interrupts(RunClock(0.05))
    with interrupts.handled():
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert interrupts.exit_code == 130


def test_a_library_may_set_handlers_of_its_own_in_between():
    interrupts = Interrupts(RunClock(None))
    before = signal.getsignal(signal.SIGTERM)
    with interrupts.handled():
        signal.signal(signal.SIGTERM, lambda *_: None)
        interrupts.handle_again()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_only_looking_ends_a_run():
    seen = []

    def run():
        interrupts = Interrupts(RunClock(0.01))
        with interrupts.handled():
            time.sleep(0.1)
            try:
                interrupts.check()
            except KeyboardInterrupt:
                seen.append(interrupts.exit_code)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [13]
