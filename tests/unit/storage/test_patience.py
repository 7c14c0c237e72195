"""Waiting for a store that many threads read."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from render_farm.errors import Cancelled, StorageError
from render_farm.storage import patience
from render_farm.storage.patience import SharedPatience


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.05)


def store(*, up_after_s: float):
    """What reads of a store that is down at first."""
    up_at = time.monotonic() + up_after_s

    def read() -> str:
        if time.monotonic() < up_at:
            raise StorageError("down")
        return "read"

    return read


def test_an_outage_is_waited_out_by_all_and_told_once():
    told = []
    wait = SharedPatience(60.0, on_outage=told.append)
    read = store(up_after_s=0.3)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: wait(read), range(4))) == ["read"] * 4
    assert [str(error) for error in told] == ["down"]
    assert wait(store(up_after_s=0.1)) == "read" and len(told) == 2, "the first outage was over"


def test_an_outage_that_lasts_too_long_is_waited_for_once_and_not_by_every_call():
    wait = SharedPatience(0.3)
    started = time.monotonic()
    for _ in range(50):
        with pytest.raises(StorageError):
            wait(store(up_after_s=3600))
    assert time.monotonic() - started < 5


def test_who_waits_can_be_stopped():
    stops = iter([False, True])
    with pytest.raises(Cancelled):
        SharedPatience(3600.0, stopped=lambda: next(stops))(store(up_after_s=3600))
