"""`live.json`: its format on the store is that of every earlier version."""

from __future__ import annotations

import json

from render_farm.observability.snapshot import RunSnapshot, WorkSnapshot, dump_live, parse_live

STORED = (
    b'{"schema":"render_farm.live/1","time_s":1000000000.0,"state":"running","jobs":{"done":2,"running":1},'
    b'"segments_done":7,"num_segments":9,"steps_per_s":8.25,"eta_s":60.5,"num_workers":4,"workers_busy":2,'
    b'"paused":true,"quarantined":{"gpu-7":"faults"},"note":"paused","work":[{"worker":"w-2.1","job_id":"a",'
    b'"phase":"denoise","segment":1,"num_segments":3,"step":14,"num_steps":50,"attempt":2,"helpers":["w-3.1"],'
    b'"seconds":7.5}]}'
)
"""As an earlier version wrote it."""


def test_live_json_keeps_its_format():
    live = parse_live(STORED)
    assert live is not None and json.loads(dump_live(live)) == json.loads(STORED)
    assert (live.num_jobs, live.eta_s, live.work[0].helpers) == (3, 60.5, ("w-3.1",))


def test_live_json_holds_nothing_else_of_a_snapshot():
    work = WorkSnapshot(worker="w", job_id="a", phase="publish")
    full = RunSnapshot(run_id="r", output="o", state="done", num_late=3, engine_s=4.0, slack_s=1.0, work=(work,))
    assert parse_live(dump_live(full)) == RunSnapshot(state="done", work=(work,))


def test_live_json_with_an_unknown_field_is_of_another_version():
    for name in ("engine_s", "colour"):
        assert parse_live(json.dumps({**json.loads(STORED), name: 1}).encode()) is None
