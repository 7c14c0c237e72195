"""`status`, `watch`, `logs`, `report` on a run's folder: for people, for scripts, and for runs that are not there."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from render_farm.cli import runs
from render_farm.cli.main import app
from render_farm.cli.watch.status import status_lines
from render_farm.cli.watch.status_view import status_view
from render_farm.media.mp4 import probe_mp4
from render_farm.observability.live import LiveRun, LiveWork, dump_live, parse_live
from render_farm.report.run_folder import RunFolderReader
from render_farm.report.status import RunStatus, SegmentWork, run_status
from render_farm.storage.layout import RunKeys
from render_farm.storage.open import open_store
from render_farm.storage.run_state import JobRow, RunControl, RunStateWriter, StoredRun, load_run_state
from tests.synthetic_run import START_S, write_preview, write_run


@pytest.fixture
def cli(monkeypatch):
    for name in ("RENDER_FARM_OUTPUT", "RENDER_FARM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


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
    work = LiveWork(
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
    live = LiveRun(
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
        work=(work, LiveWork(worker="w-10.1", job_id="shot-0022", phase="publish", seconds=2.0)),
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
        "  paused: `render-farm resume night --output out` lets it go on",
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


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_all_of_it_in_its_width(width):
    works = [
        SegmentWork(
            worker=f"worker-{n}.{n}", job_id=f"a-film-with-a-long-name-{n}", doing="segment 2/5 step 14/50", since_s=9
        )
        for n in range(40)
    ]
    works[0] = replace(works[0], attempt=2, helpers=("worker-1.1",), fraction=0.5)
    now = RunStatus(
        run_id="nightly-2026-11-21-1a2b3c4d",
        output="s3://bucket/films",
        state="running",
        num_jobs=1200,
        jobs={"done": 700, "running": 40, "waiting": 457, "failed": 3},
        num_segments=3600,
        segments_done=2100,
        segments_per_h=400.5,
        steps_per_s=12.25,
        eta_s=3 * 3600.0,
        last_event_s=2.0,
        is_live=True,
        device="cuda",
        num_workers=40,
        workers_busy=40,
        workers=works,
    )
    problems = ["  3 films failed: InputError: image s3://inputs/fox.png: there is no such object", "    Check it."]
    console = Console(width=width, height=24, record=True, file=io.StringIO(), highlight=False)
    console.print(status_view(now, problems, height=24))
    lines = console.export_text().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= width
    text = "\n".join(lines)
    for said in (
        "700 of 1,200 films done",
        "457 waiting",
        "58%",
        "segments 2,100/3,600",
        "ETA 3:00:00",
        "40 GPUs",
        "12.25",
    ):
        assert said in text
    assert "worker-0.0 +1" in text and "segment 2/5 step 14/50, attempt 2" in text and "more" in text
    assert "InputError" in text


def test_deadlines_at_the_present_pace(tmp_path):
    write_run(tmp_path, num_jobs=30, num_films=0, still_running=True)
    store, now_s = open_store(tmp_path), START_S + 5 * 3600
    for eta_h, at_risk in ((1.5, []), (12.0, ["shot-0020"])):  # one of ten films that are left: after a tenth of it
        live = LiveRun(time_s=now_s, state="running", jobs={"done": 20, "waiting": 10}, eta_s=eta_h * 3600)
        store.write_bytes(RunKeys(run_id="night").live, dump_live(live))
        now = run_status(RunFolderReader(store, "night").read(), now_s=now_s, root_uri="out")
        assert (now.deadlines.at_risk, now.deadlines.kept, now.deadlines.num_jobs) == (at_risk, 2, 3)
    assert "    at risk: shot-0020" in status_lines(now)


def test_a_run_that_was_paused_while_nobody_rendered_it_says_so(cli, tmp_path):
    write_run(tmp_path, num_jobs=9, num_films=0, still_running=True)
    control = RunControl(paused=True, quarantined=(("gpu-7", "set aside"),))
    RunStateWriter(open_store(tmp_path), "night", StoredRun()).write({}, control)
    said = cli("status", "night", "--output", tmp_path).stdout
    assert said.startswith("night: paused, 6 of 9 films done")
    assert "host gpu-7 is quarantined: set aside" in said


def test_status_for_people_and_for_scripts(cli, tmp_path):
    write_run(tmp_path, num_films=0)
    said = cli("status", "night", "--output", tmp_path)
    assert said.exit_code == 0
    assert said.stdout.startswith("night: failed, 38 of 40 films done, 2 failed, segments 116/120")
    assert f"render-farm retry night shot-0007 --output {tmp_path}" in said.stdout
    found = json.loads(cli("status", f"{tmp_path}/_runs/night", "--json").stdout)
    assert found["jobs"] == {"done": 38, "failed": 2}
    assert {group["error_class"] for group in found["failures"]} == {"InputError", "OutOfMemoryError"}


def test_watch_of_a_run_that_is_over_ends_as_it_did(cli, tmp_path):
    write_run(tmp_path, num_films=0)
    said = cli("watch", "night", "--output", tmp_path)
    assert said.exit_code == 11
    assert said.stdout.startswith("night: failed")
    assert json.loads(cli("watch", "night", "--output", tmp_path, "--json").stdout)["state"] == "failed"


def test_logs_of_a_run_and_of_a_job(cli, tmp_path):
    write_run(tmp_path, num_films=0)
    assert cli("logs", "night", "--output", tmp_path).stdout.splitlines() == ["2026-11-20 22:00:00Z 40 films to render"]
    lines = cli("logs", "night", "shot-0003", "--all", "--output", tmp_path).stdout.splitlines()
    assert len(lines) == 8
    assert "[worker-" in lines[0]
    assert "segment 1 debug: shot-0003: began on" in lines[0]
    events = json.loads(cli("logs", "night", "shot-0003", "--all", "--json", "--output", tmp_path).stdout)["events"]
    assert [event["kind"] for event in events][-1] == "film_published"
    assert cli("logs", "night", "--follow", "--output", tmp_path).exit_code == 0
    lines = cli("logs", "night", "shot-0003", "--all", "--json", "--follow", "--output", tmp_path).stdout.splitlines()
    assert [json.loads(line) for line in lines] == events


@pytest.mark.parametrize("verb", ["status", "watch", "logs", "report"])
def test_a_run_that_is_not_there_is_14(cli, tmp_path, verb):
    write_run(tmp_path, num_jobs=3, num_films=0)
    at_once = ["--wait", "0"] if verb == "watch" else []
    said = cli(verb, "other", "--output", tmp_path, *at_once)
    assert said.exit_code == 14
    assert "night" in said.stderr
    assert cli(verb, "other").exit_code == 2


@pytest.mark.parametrize("command", [("watch",), ("logs", "--follow")])
def test_a_run_that_was_just_submitted_is_waited_for(cli, tmp_path, monkeypatch, command):
    def look_again(_: float) -> None:
        write_run(tmp_path, num_jobs=3, num_films=0)

    monkeypatch.setattr(runs.time, "sleep", look_again)
    said = cli(*command, "night", "--output", tmp_path)
    assert said.exit_code in (0, 11), said.stderr
    assert said.stderr.count("waiting up to 120 s") == 1


def test_a_job_that_is_not_there_is_14(cli, tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    assert cli("logs", "night", "nobody", "--output", tmp_path).exit_code == 14


def test_report_writes_the_page_and_says_where(cli, tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    said = cli("report", "night", "--output", tmp_path)
    assert said.stdout == f"{tmp_path}/_runs/night/report.html\n"
    assert (tmp_path / "_runs" / "night" / "report.html").read_bytes().startswith(b"<!doctype html>")


def test_preview_lists_saves_and_says_what_is_missing(cli, tmp_path):
    store = open_store(tmp_path)
    write_run(tmp_path, num_jobs=9, num_films=1, still_running=True)
    film = write_preview(tmp_path, "shot-0007", num_parts=2)
    rows = {
        "shot-0000": JobRow(state="done", render_key="0" * 12, segments=3, segments_done=3),
        "shot-0006": JobRow(state="running", render_key="1" * 12, segments=3),
        "shot-0007": JobRow(state="running", render_key=film[-12:], segments=3, segments_done=2),
        "shot-0008": JobRow(state="waiting", render_key="2" * 12, segments=1),
    }
    RunStateWriter(store, "night", load_run_state(store, "night")).write(rows)
    said = cli("preview", "night", "--output", tmp_path)
    assert said.stdout.splitlines() == [
        f"shot-0000: done: {tmp_path}/shot-0000/video.mp4",
        f"shot-0007: 2 of 3 segments, 2 s: {tmp_path}/_work/{film}/preview/preview.m3u8",
    ]
    for job, num_frames in (("shot-0007", 48), ("shot-0000", 24)):
        said = cli("preview", "night", job, "--save", tmp_path / "new" / "p.mp4", "--output", tmp_path)
        assert said.stdout == f"{tmp_path}/new/p.mp4\n"
        assert probe_mp4(tmp_path / "new" / "p.mp4").num_frames == num_frames
    (found,) = json.loads(cli("preview", "night", "shot-0007", "--json", "--output", tmp_path).stdout)["films"]
    assert (found["segments_shown"], found["seconds"], found["state"]) == (2, 2.0, "running")
    for job, why in (("shot-0006", "0 segments of 3"), ("shot-0008", "in one segment"), ("other", "is known")):
        said = cli("preview", "night", job, "--output", tmp_path)
        assert (said.exit_code, said.stdout) == (14, "")
        assert why in said.stderr
    assert cli("preview", "night", "--open", "--output", tmp_path).exit_code == 2
