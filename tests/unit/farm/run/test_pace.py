"""The pace of a run: steps per second lately, and an ETA that follows work that grows and shrinks."""

from __future__ import annotations

import pytest

from render_farm.farm.run.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("render_farm.farm.run.pace.time.monotonic", lambda: now[0])
    return now


def test_there_is_no_pace_before_the_first_step(clock):
    pace = Pace()
    pace.work_left += 100
    assert (pace.eta_s, pace.steps_per_s) == (None, 0.0)
    pace.stepped(1, 10.0)
    assert pace.eta_s is None, "no time has passed since"


def test_the_eta_follows_the_work_that_is_left(clock):
    pace = Pace()
    pace.work_left += 100
    pace.stepped(1, 10.0)
    clock[0] += 10.0
    pace.stepped(1, 10.0)
    assert pace.eta_s == 40.0, "20 in 10 s, 80 are left"
    pace.work_left += 20
    assert pace.eta_s == 50.0
    pace.work_left -= 500
    assert pace.eta_s == 0.0


def test_steps_per_second_forget_what_is_long_ago(clock):
    pace = Pace()
    pace.stepped(1000, 1.0)
    clock[0] += 100.0
    for _ in range(5):
        pace.stepped(2, 1.0)
        clock[0] += 1.0
    assert (pace.steps_per_s, pace.steps_made) == (2.0, 1010)
