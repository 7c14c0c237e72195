"""Work in threads that are left behind."""

from __future__ import annotations

import threading
import time

import pytest

from render_farm.farm.driver.aside import as_done, aside


def test_results_come_as_they_are_done_with_the_number_of_their_item():
    first = threading.Event()

    def work(item):
        if item == "a":
            first.wait(10)
        return item.upper()

    found = []
    for number, result in as_done(work, ["a", "b", "c"], num_threads=2, check=lambda: None):
        found.append((number, result))
        if len(found) == 2:
            first.set()
    assert found == [(1, "B"), (2, "C"), (0, "A")]


def test_an_exception_of_the_work_is_raised_by_the_caller():
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 / 0, check=lambda: None)


def test_what_blocks_is_left_behind_and_no_further_item_is_begun():
    begun, release = [], threading.Event()

    def work(item):
        begun.append(item)
        release.wait(20)

    def check():
        if len(begun) == 2:
            raise KeyboardInterrupt

    started_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(as_done(work, range(9), num_threads=2, check=check))
    assert time.monotonic() - started_s < 5
    release.set()
    time.sleep(0.1)
    assert len(begun) == 2


def test_nothing_to_do_is_done():
    assert list(as_done(str, [], num_threads=4, check=lambda: None)) == []
