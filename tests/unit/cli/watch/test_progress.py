"""What is shown of a run: plain lines without a terminal, bars with one."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from render_farm.cli.terminal import duration, plural
from render_farm.cli.watch.live import LiveWatcher, job_fraction, job_text
from render_farm.cli.watch.progress import LINE_EVERY_S, LineWatcher
from render_farm.farm.run.snapshot import JobSnapshot, LogLine, RunSnapshot


def picture(**changes) -> RunSnapshot:
    values = {
        "run_id": "demo-1",
        "output": "out",
        "state": "running",
        "num_jobs": 4,
        "counts": {"running": 1, "waiting": 2, "done": 1},
        "num_segments": 8,
        "segments_done": 3,
        "steps_per_s": 2.5,
        "eta_s": 130.4,
        "num_workers": 2,
        "workers_busy": 1,
    }
    return RunSnapshot(**{**values, **changes})


def line(number: int, message: str, level: str = "info", job_id: str = "") -> LogLine:
    return LogLine(number=number, time_s=3600.0 * 5, level=level, job_id=job_id, message=message)


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
    watcher.show(picture(log=log[:1]))
    watcher.show(picture(log=log))
    watcher.show(picture(log=log))
    assert printed() == ["a: done", PROGRESS, "warning: slow"]


def test_progress_is_printed_when_the_state_changes_and_now_and_then(lines):
    watcher, clock, printed = lines
    for second in range(int(LINE_EVERY_S) + 2):
        clock[0] = float(second)
        watcher.show(picture(segments_done=min(second, 7)))
    assert len(printed()) == 2
    clock[0] += 1000
    watcher.show(picture(segments_done=7))
    assert printed() == []  # nothing moved
    watcher.show(picture(state="done", counts={"done": 4}, segments_done=8, steps_per_s=0.0))
    assert printed() == ["demo-1: done, 4 of 4 done, segments 8/8"]


def test_what_a_run_waits_for_is_printed_once(lines):
    watcher, _, printed = lines
    for _ in range(3):
        watcher.show(picture(note="starting 2 workers"))
    assert printed() == ["demo-1: starting 2 workers", PROGRESS]


def live(snapshots: list[RunSnapshot], height: int = 20) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, height=height, color_system=None)
    with LiveWatcher(console) as watcher:
        for snapshot in snapshots:
            watcher.show(snapshot)
            watcher._live.refresh()
    return stream.getvalue()


def running(job_id: str, **changes) -> JobSnapshot:
    values = {"num_segments": 3, "segments_done": 1, "step": 5, "num_steps": 16, "phase": "denoise"}
    return JobSnapshot(job_id=job_id, state="running", **{**values, **changes})


def test_bars_show_the_run_and_its_running_films():
    text = live([picture(jobs=(running("[bold]a"), JobSnapshot(job_id="b", state="done")), log=(line(1, "hello"),))])
    assert "05:00:00Z hello" in text
    assert "demo-1 running" in text and "1/4 films  segments 3/8  workers 1/2  ETA 0:02:10" in text
    assert "[bold]a" in text and "segment 2/3  step 5/16" in text


def test_bars_of_films_that_ended_go_away():
    text = live([picture(jobs=(running("first"),)), picture(jobs=(running("second"),))])
    assert "second" in text.rpartition("demo-1 running")[2]
    assert "first" not in text.rpartition("demo-1 running")[2]


def test_many_films_do_not_overflow_the_terminal():
    text = live([picture(jobs=tuple(running(f"film-{i}") for i in range(50)), note="busy")], height=10)
    assert "film-5" in text and "film-6" not in text
    assert "busy; 44 more films are being rendered" in text


def test_live_needs_nothing_to_be_known():
    live([RunSnapshot(run_id="r", output="o", state="waiting", num_jobs=0), picture(num_segments=0, jobs=())])


def test_a_film_in_words():
    assert job_text(running("a")) == "segment 2/3  step 5/16"
    assert job_text(running("a", num_steps=0, phase="text")) == "segment 2/3  text"
    assert job_text(running("a", segments_done=3, phase="publish")) == "publish"
    assert job_fraction(running("a", step=8)) == 0.5
    assert job_fraction(running("a", num_segments=0)) == 0.0


def test_durations_and_plurals():
    assert [duration(value) for value in (0, 59.6, 3661, 90_000)] == ["0:00:00", "0:01:00", "1:01:01", "1 d 1:00:00"]
    assert [plural(value, "job") for value in (0, 1, 2000)] == ["0 jobs", "1 job", "2,000 jobs"]


def test_what_others_wrote_does_not_steer_the_terminal(lines):
    watcher, _, printed = lines
    watcher.show(picture(log=(line(1, "cancelled by x: \x1b[2J\rall is done\x9b0m", job_id="a"),)))
    assert printed()[0] == r"a: cancelled by x: \x1b[2J\x0dall is done\x9b0m"
