"""`status`, `watch`, `logs`, `report` on a run's folder: for people, for scripts, and for runs that are not there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm.cli.watch.status import status_lines
from render_farm.observability.snapshot import RunSnapshot, WorkSnapshot, dump_live, parse_live
from render_farm.report.run_folder import RunFolderReader
from render_farm.report.status import run_status
from render_farm.storage.layout import RunKeys
from render_farm.storage.open import open_store
from render_farm.storage.run_state import RunControl
from tests.helpers.synthetic_run import START_S, write_run


def test_a_run_that_goes_on(tmp_path):
    write_run(tmp_path, num_jobs=30, num_films=0, still_running=True)
    folder = RunFolderReader(open_store(tmp_path), "night").read()
    cut = START_S + 900
    folder.events[:] = [line for line in folder.events if line.time_s <= cut]
    for row in folder.results:
        if row.get("finished_at") and row["finished_at"] > cut:
            row["state"] = "running" if row["started_at"] < cut else "waiting"
    now = run_status(folder, now_s=cut, root_uri="out")
    assert now.state == "running"
    assert len(now.workers) == 4
    assert all(0 <= work.since_s < 100 for work in now.workers)
    assert 0 < now.segments_done < now.num_segments == 90
    left_h = (now.num_segments - now.segments_done) / now.segments_per_h
    assert now.eta_s == pytest.approx(left_h * 3600, rel=0.01)
    assert (now.deadlines.num_jobs, now.deadlines.missed, now.deadlines.next_s) == (3, [], 6 * 3600 - 900)
    assert run_status(folder, now_s=START_S + 7 * 3600, root_uri="out").deadlines.missed[-1] == "shot-0020"


def test_what_the_coordinator_said_lately_is_shown_and_what_is_old_is_not(tmp_path):
    write_run(tmp_path, num_jobs=30, num_films=0, still_running=True)
    store, now_s = open_store(tmp_path), START_S + 900
    work = WorkSnapshot(
        worker="w-2.1",
        job_id="shot-0021",
        phase="denoise",
        segment=1,
        num_segments=3,
        step=14,
        num_steps=50,
        attempt=2,
        helpers=("w-3.1",),
    )
    live = RunSnapshot(
        time_s=now_s - 3,
        state="running",
        jobs={"done": 19, "failed": 1, "running": 1, "waiting": 9},
        segments_done=61,
        num_segments=90,
        steps_per_s=8.25,
        eta_s=6 * 3600.0,
        num_workers=4,
        workers_busy=1,
        paused=True,
        quarantined={"gpu-7": "3 worker faults"},
        work=(work, WorkSnapshot(worker="w-10.1", job_id="shot-0022", phase="publish", seconds=2.0)),
    )
    store.write_bytes(RunKeys(run_id="night").live, dump_live(live))
    folder = RunFolderReader(store, "night").read()
    folder = replace(folder, control=RunControl(paused=True, quarantined=tuple(live.quarantined.items())))
    now = run_status(folder, now_s=now_s, root_uri="out")
    assert (now.steps_per_s, now.num_workers, now.workers_busy, now.eta_s) == (8.25, 4, 1, 6 * 3600)
    late = run_status(folder, now_s=now_s + 20, root_uri="out")
    assert late.is_live
    lines = status_lines(now)
    assert lines[0] == (
        "night: paused, 19 of 30 films done, 1 running, 9 waiting, 1 failed, segments 61/90, 8.25 steps/s, "
        f"{now.segments_per_h:g} segments/h, 4 GPUs, 1 busy, ETA 6:00:00"
    )
    assert lines[1:6] == [
        "  paused: `render-farm resume night --output out` continues it",
        "  host gpu-7 is quarantined: 3 worker faults",
        "    render-farm hosts release night gpu-7 --output out",
        "  w-2.1 with w-3.1  shot-0021  segment 2/3 step 14/50, attempt 2  for 0:00:00",
        "  w-10.1  shot-0022  finishing  for 0:00:02",
    ]
    later = run_status(folder, now_s=now_s + 90, root_uri="out")
    assert (later.is_live, later.steps_per_s, later.num_workers) == (False, None, None)
    assert parse_live(dump_live(live)) == live
    for torn in (b"", b"[]", b'{"schema": "render_farm.live/2"}', dump_live(live)[:-9]):
        assert parse_live(torn) is None


def test_deadlines_at_the_present_pace(tmp_path):
    write_run(tmp_path, num_jobs=30, num_films=0, still_running=True)
    store, now_s = open_store(tmp_path), START_S + 5 * 3600
    for eta_h, at_risk in ((1.5, []), (12.0, ["shot-0020"])):  # one of ten films that are left: after a tenth of it
        live = RunSnapshot(time_s=now_s, state="running", jobs={"done": 20, "waiting": 10}, eta_s=eta_h * 3600)
        store.write_bytes(RunKeys(run_id="night").live, dump_live(live))
        now = run_status(RunFolderReader(store, "night").read(), now_s=now_s, root_uri="out")
        assert (now.deadlines.at_risk, now.deadlines.kept, now.deadlines.num_jobs) == (at_risk, 2, 3)
    assert "    at risk: shot-0020" in status_lines(now)
