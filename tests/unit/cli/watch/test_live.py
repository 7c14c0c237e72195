"""Bars of a run in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from render_farm.cli.watch.live import LiveWatcher, film_fraction, work_text
from render_farm.observability.snapshot import RunSnapshot, WorkSnapshot
from tests.helpers.run_snapshots import line, snapshot


def live(snapshots: list[RunSnapshot], height: int = 20) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, height=height, color_system=None)
    with LiveWatcher(console) as watcher:
        for shown in snapshots:
            watcher.show(shown)
            watcher._live.refresh()
    return stream.getvalue()


def running(job_id: str, **changes) -> WorkSnapshot:
    values = {"worker": "w", "num_segments": 3, "segment": 1, "step": 5, "num_steps": 16, "phase": "denoise"}
    return WorkSnapshot(job_id=job_id, **{**values, **changes})


def test_bars_show_the_run_and_its_running_films():
    text = live([snapshot(work=(running("[bold]a"),), log=(line(1, "hello"),))])
    assert "05:00:00Z hello" in text
    assert "demo-1 running" in text and "1/4 films  segments 3/8  workers 1/2  ETA 0:02:10" in text
    assert "[bold]a" in text and "segment 2/3  step 5/16" in text


def test_bars_of_films_that_ended_go_away():
    text = live([snapshot(work=(running("first"),)), snapshot(work=(running("second"),))])
    assert "second" in text.rpartition("demo-1 running")[2]
    assert "first" not in text.rpartition("demo-1 running")[2]


def test_many_films_do_not_overflow_the_terminal():
    text = live([snapshot(work=tuple(running(f"film-{i}") for i in range(50)), note="busy")], height=10)
    assert "film-5" in text and "film-6" not in text
    assert "busy; 44 more films are being rendered" in text


def test_live_needs_nothing_to_be_known():
    live([RunSnapshot(run_id="r", output="o", state="waiting"), snapshot(num_segments=0)])


def test_a_film_in_words():
    assert work_text(running("a")) == "segment 2/3  step 5/16"
    assert work_text(running("a", num_steps=0, phase="text")) == "segment 2/3  text"
    assert work_text(running("a", segment=3, phase="publish")) == "publish"
    assert film_fraction(running("a", step=8)) == 0.5
    assert film_fraction(running("a", num_segments=0)) == 0.0
