"""The verbs status, watch and logs on a run's folder: for people, for scripts, and for runs that are not there."""

from __future__ import annotations

import json

import pytest

from render_farm.cli import runs
from render_farm.cli.watch.log_lines import since_time
from render_farm.farm.run.results import Result, write_results
from render_farm.report.writer import ReportWriter
from render_farm.storage.open import open_store
from render_farm.storage.run_state import JobRow, RunControl, RunStateWriter, StoredRun
from tests.helpers.synthetic_run import START_S, write_run


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
    assert [json.loads(line) for line in lines] == [{"schema": "render_farm.logs/1", **event} for event in events]


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


def test_runs_are_listed_with_the_newest_first(cli, tmp_path):
    for number, name in enumerate(("zebra", "night", "a-new-one")):
        write_run(tmp_path, run_id=name, num_jobs=3, num_films=0, started_s=START_S + 3600 * number)
    lines = cli("runs", "--output", tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "a-new-one", "night", "zebra"]
    found = json.loads(cli("runs", "-o", tmp_path, "--limit", 1, "--json").stdout)
    assert (found["num_runs"], [run["run_id"] for run in found["runs"]]) == (3, ["a-new-one"])
    assert "2 older ones are not shown" in cli("runs", "-o", tmp_path, "-n", 1).stderr
    assert "the newest there: a-new-one, night, zebra" in cli("status", "other", "-o", tmp_path).stderr


def test_a_run_with_jobs_left_that_nobody_renders_is_interrupted(cli, tmp_path):
    write_run(tmp_path, num_jobs=9, num_films=0, still_running=True)
    [run] = json.loads(cli("runs", "-o", tmp_path, "--json").stdout)["runs"]
    assert (run["state"], run["is_live"]) == ("interrupted", False)


def test_status_without_a_run_is_of_the_newest(cli, tmp_path):
    assert cli("status", "-o", tmp_path).exit_code == 14
    for number, name in enumerate(("zebra", "a-new-one")):
        write_run(tmp_path, run_id=name, num_jobs=3, num_films=0, started_s=START_S + 3600 * number)
    assert cli("status", "-o", tmp_path).stdout.startswith("a-new-one: ")


def test_json_is_understood_where_kubectl_has_it(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, num_jobs=3, num_films=0)
    monkeypatch.setenv("RENDER_FARM_OUTPUT", str(tmp_path))
    for flags in (["-o", "json"], ["-ojson"], ["--output=json"]):
        said = cli("status", "night", *flags)
        assert json.loads(said.stdout)["run_id"] == "night"
        assert "--json" in said.stderr
    (tmp_path / "json").mkdir()
    assert cli("status", "night", "-o", "json").exit_code == 14  # there is such a folder


def test_the_last_events_and_those_since_a_time(cli, tmp_path):
    write_run(tmp_path, num_films=0)
    everything = cli("logs", "night", "--all", "-o", tmp_path).stdout.splitlines()
    assert cli("logs", "night", "--all", "--tail", 3, "-o", tmp_path).stdout.splitlines() == everything[-3:]
    assert cli("logs", "night", "--all", "--tail", 0, "-o", tmp_path).stdout == ""
    late = cli("logs", "night", "--all", "--since", "2026-11-20T22:05", "-o", tmp_path).stdout.splitlines()
    assert late == [line for line in everything if line >= "2026-11-20 22:05:00Z"]
    assert late != everything
    assert cli("logs", "night", "--since", "soon", "-o", tmp_path).exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds_ago"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172_800), ("22:00", 3600), ("23:30", 84_600)],
)
def test_since_reads_lengths_and_times_of_day(text, seconds_ago):
    assert since_time(text, START_S + 3600) == START_S + 3600 - seconds_ago


def test_a_job_without_events_is_answered_with_its_result(cli, tmp_path):
    """A row that was refused before anything was rendered."""
    write_run(tmp_path, num_jobs=3, num_films=0)
    store = open_store(tmp_path)
    write_results(
        store, "night", [Result(job_id="bad1", state="failed", message="row 1: num_frames: 0 is less than 1")]
    )
    said = cli("logs", "night", "bad1", "-o", tmp_path)
    assert said.stdout == "bad1: failed: row 1: num_frames: 0 is less than 1\n"
    assert json.loads(cli("logs", "night", "bad1", "--json", "-o", tmp_path).stdout)["jobs"][0]["state"] == "failed"


def test_a_film_that_was_cancelled_by_name_cancels_no_run(cli, tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    store, names = open_store(tmp_path), ("shot-0000", "shot-0001", "shot-0002")
    results = [Result(job_id=name, state="cancelled" if name == names[1] else "done") for name in names]
    write_results(store, "night", results)
    assert cli("watch", "night", "-o", tmp_path).exit_code == 12  # nobody took it out: the run was cancelled
    RunStateWriter(store, "night", StoredRun()).write({names[1]: JobRow(state="cancelled", taken_out=True)})
    said = cli("watch", "night", "-o", tmp_path)
    assert (said.exit_code, said.stdout.startswith("night: done, 2 of 3 films done, 1 cancelled")) == (0, True)
    assert cli("runs", "-o", tmp_path).stdout.splitlines()[1].split()[1] == "done"
    assert ReportWriter(store, "night").data()["run"]["state"] == "done"
