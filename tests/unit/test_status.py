"""`status`, `watch`, `logs`, `report` on a run's folder: for people, for scripts, and for runs that are not there."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.report.run_folder import RunFolderReader
from render_farm.report.status import run_status
from render_farm.storage.store import open_store
from tests.synthetic_run import START_S, write_run


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
    assert now.late == []
    assert run_status(folder, now_s=START_S + 7 * 3600, root_uri="out").late[-1] == "shot-0020"


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


@pytest.mark.parametrize("verb", ["status", "watch", "logs", "report"])
def test_a_run_that_is_not_there_is_14(cli, tmp_path, verb):
    write_run(tmp_path, num_jobs=3, num_films=0)
    said = cli(verb, "other", "--output", tmp_path)
    assert said.exit_code == 14
    assert "night" in said.stderr
    assert cli(verb, "other").exit_code == 2


def test_a_job_that_is_not_there_is_14(cli, tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    assert cli("logs", "night", "nobody", "--output", tmp_path).exit_code == 14


def test_report_writes_the_page_and_says_where(cli, tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    said = cli("report", "night", "--output", tmp_path)
    assert said.stdout == f"{tmp_path}/_runs/night/report.html\n"
    assert (tmp_path / "_runs" / "night" / "report.html").read_bytes().startswith(b"<!doctype html>")
