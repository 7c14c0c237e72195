"""What is shown of a run: plain lines without a terminal, bars with one."""

from __future__ import annotations

import io
import re

import pytest

from render_farm.cli.watch.progress import LINE_EVERY_S, LineWatcher
from render_farm.observability.events import LogLine
from tests.helpers.run_snapshots import line, snapshot


@pytest.fixture
def lines():
    """A watcher, its clock, and the lines it printed without their time of day."""
    stream, clock = io.StringIO(), [0.0]
    watcher = LineWatcher(stream, clock=lambda: clock[0])

    def printed() -> list[str]:
        found = stream.getvalue().splitlines()
        stream.seek(0)
        stream.truncate()
        assert all(re.match(r"\d\d:\d\d:\d\dZ ", text) for text in found)
        return [text[10:] for text in found]

    return watcher, clock, printed


PROGRESS = "demo-1: running, 1 of 4 done, 1 running, segments 3/8, 2.5 steps/s, ETA 0:02:10"


def test_events_are_printed_once_and_debug_ones_never(lines):
    watcher, _, printed = lines
    log = (line(1, "done", job_id="a"), line(2, "x", "debug"), line(3, "slow", "warning"))
    watcher.show(snapshot(log=log[:1]))
    watcher.show(snapshot(log=log))
    watcher.show(snapshot(log=log))
    assert printed() == ["a: done", PROGRESS, "warning: slow"]


def test_progress_is_printed_when_the_state_changes_and_now_and_then(lines):
    watcher, clock, printed = lines
    for second in range(int(LINE_EVERY_S) + 2):
        clock[0] = float(second)
        watcher.show(snapshot(segments_done=min(second, 7)))
    assert len(printed()) == 2
    clock[0] += 1000
    watcher.show(snapshot(segments_done=7))
    assert printed() == []  # nothing moved
    watcher.show(snapshot(state="done", jobs={"done": 4}, segments_done=8, steps_per_s=0.0))
    assert printed() == ["demo-1: done, 4 of 4 done, segments 8/8"]


def test_what_a_run_waits_for_is_printed_once(lines):
    watcher, _, printed = lines
    for _ in range(3):
        watcher.show(snapshot(note="starting 2 workers"))
    assert printed() == ["demo-1: starting 2 workers", PROGRESS]


def test_what_others_wrote_does_not_steer_the_terminal(lines):
    watcher, _, printed = lines
    watcher.show(snapshot(log=(line(1, "cancelled by x: \x1b[2J\rall is done\x9b0m", job_id="a"),)))
    assert printed()[0] == r"a: cancelled by x: \x1b[2J\x0dall is done\x9b0m"


def test_the_log_of_a_restarted_coordinator_is_shown(lines):
    watcher, _, printed = lines
    watcher.show(snapshot(log=(line(7, "before"),)))
    again = LogLine(number=1, time_s=3600.0 * 5 + 9, level="info", job_id="", message="after")
    watcher.show(snapshot(log=(again,)))
    assert [text for text in printed() if text != PROGRESS] == ["before", "after"]
