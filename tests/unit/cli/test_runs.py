"""The verbs status, watch and logs on a run's folder: for people, for scripts, and for runs that are not there."""

from __future__ import annotations

import json

import pytest

from render_farm.cli import runs
from render_farm.storage.open import open_store
from render_farm.storage.run_state import RunControl, RunStateWriter, StoredRun
from tests.helpers.synthetic_run import write_run


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
