"""The events of a run: what a line holds, and that torn and foreign lines do no harm."""

from __future__ import annotations

import json

from render_farm.farm.run.log import RunLog
from render_farm.observability.events import EventKind, parse_lines
from render_farm.storage.layout import RunKeys
from render_farm.storage.open import open_store


def test_lines_come_back_as_they_were_written(tmp_path):
    store, log = open_store(tmp_path), RunLog("night")
    log.add("hello")
    log.add(
        "segment 1/3 on w", kind=EventKind.SEGMENT_STARTED, job_id="a", segment=0, attempt=2, worker="w", num_frames=5
    )
    log.flush(store)
    log.add("later")
    log.flush(store)
    keys = store.list(RunKeys(run_id="night").logs)
    assert len(keys) == 2
    lines = [line for key in keys for line in parse_lines(store.read_bytes(key))]
    assert tuple(lines) == log.after(0)
    segment = lines[1]
    assert (segment.run_id, segment.job_id, segment.segment, segment.attempt, segment.worker) == (
        "night",
        "a",
        0,
        2,
        "w",
    )
    assert segment.values == {"num_frames": 5}
    assert "segment" not in json.loads(store.read_bytes(keys[0]).splitlines()[0])


def test_a_warning_that_comes_again_and_again_is_joined(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("render_farm.farm.run.log.time.monotonic", lambda: now[0])
    log = RunLog("night")
    for _ in range(57):
        log.add("the credentials have expired", level="warning")
        log.add("of a job", level="warning", job_id="a")
        now[0] += 0.5
    log.add("of a job", level="warning", job_id="b")
    now[0] += 60.0
    log.add("the credentials have expired", level="warning")
    assert [(line.job_id, line.message) for line in log.after(0)] == [
        ("", "the credentials have expired"),
        ("a", "of a job"),
        ("b", "of a job"),
        ("", "the credentials have expired (and 56 times more before)"),
    ]
