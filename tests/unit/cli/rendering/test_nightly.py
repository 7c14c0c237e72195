"""The nightly entry point: which night it renders, and when it does not. Rendering itself is a stand-in here;
tests/farm/test_submit.py runs it for real."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from render_farm.cli.rendering import nightly
from render_farm.errors import LeaseHeldError
from render_farm.farm.run.outcome import RunOutcome
from render_farm.farm.run.results import Result, write_results
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.storage import open_store
from render_farm.storage.layout import RunKeys
from tests.helpers.receiver import receiver

TODAY = datetime.now(UTC).date()
"""With --night-begins 00:00."""


class Farm:
    """A stand-in for the driver: notes requests, and leaves what a run leaves."""

    def __init__(self) -> None:
        self.requests: list = []
        self.state = "done"
        self.held = 0
        self.code = 0

    def run(self, request) -> RunOutcome:
        if self.held:
            self.held -= 1
            raise LeaseHeldError(f"run {request.run_id} is held by process 1 on another")
        self.requests.append(request)
        store, keys = open_store(request.output), RunKeys(run_id=request.run_id)
        store.write_bytes(keys.manifest, Path(request.manifest).read_bytes())
        write_results(store, request.run_id, [Result(job_id="a", state=self.state)])
        code = self.code or {"done": 0, "failed": 10, "cancelled": 12}[self.state]
        return RunOutcome(
            run_id=request.run_id, output=request.output, state=self.state, jobs={self.state: 1}, exit_code=code
        )


@pytest.fixture
def farm(monkeypatch):
    farm = Farm()
    monkeypatch.setattr(nightly, "run", farm.run)
    monkeypatch.setattr(nightly, "_LOOK_EVERY_S", 0.01)
    return farm


@pytest.fixture
def go(tmp_path):
    def go(*arguments: str):
        start = [str(tmp_path / "{date}.parquet"), "--output", str(tmp_path / "films"), "--night-begins", "00:00"]
        return CliRunner().invoke(nightly.app, [*start, *arguments], catch_exceptions=False)

    return go


def manifest(folder: Path, days_ago: int = 0, prompt: str = "a") -> str:
    day = (TODAY - timedelta(days=days_ago)).isoformat()
    write_manifest(str(folder / f"{day}.parquet"), [RenderJob(job_id=f"a{days_ago}", prompt=prompt)])
    return f"nightly-{day}"


def test_tonight_is_rendered_under_its_date(farm, go, tmp_path):
    run_id = manifest(tmp_path)
    done = go("--deadline", "23:59", "--workers", "3", "--json")
    assert done.exit_code == 0, done.stderr
    (request,) = farm.requests
    assert (request.run_id, request.num_workers) == (run_id, 3)
    assert request.deadline is not None and 0 < request.timeout_s <= 86_400
    assert json.loads(done.stdout)["nights"][0]["run_id"] == run_id


def test_a_deadline_may_be_passed_when_asked_for(farm, go, tmp_path):
    manifest(tmp_path)
    assert go("--deadline", "23:59", "--after-deadline", "go-on").exit_code == 0
    assert farm.requests[0].timeout_s is None and farm.requests[0].deadline is not None


def test_a_night_whose_deadline_has_passed_is_13(farm, go, tmp_path):
    manifest(tmp_path, days_ago=2)
    that_night = ("--date", (TODAY - timedelta(days=2)).isoformat(), "--deadline", "23:59")
    done = go(*that_night)
    assert done.exit_code == 13 and farm.requests == []
    assert "report" not in done.stdout and "--after-deadline go-on" in done.stderr
    late = go(*that_night, "--after-deadline", "go-on")
    assert late.exit_code == 0 and "continues after its deadline" in late.stderr


def test_no_manifest_is_14(farm, go):
    done = go("--wait-for-manifest", "0.02")
    assert done.exit_code == 14 and TODAY.isoformat() in done.stderr


def test_a_night_that_is_over_is_not_begun_again(farm, go, tmp_path):
    manifest(tmp_path)
    farm.state = "failed"
    assert go().exit_code == 10
    assert go().exit_code == 10 and len(farm.requests) == 1
    farm.state = "done"
    assert go("--again").exit_code == 0 and len(farm.requests) == 2


@pytest.mark.parametrize("changed", ["cancelled", "manifest"])
def test_a_night_that_was_cut_off_or_changed_goes_on(farm, go, tmp_path, changed):
    manifest(tmp_path)
    farm.state = "cancelled" if changed == "cancelled" else "done"
    go()
    if changed == "manifest":
        manifest(tmp_path, prompt="another")
    farm.state = "done"
    assert go().exit_code == 0 and len(farm.requests) == 2


def test_a_night_that_another_cluster_renders_is_waited_for(farm, go, tmp_path):
    manifest(tmp_path)
    farm.held = 3
    done = go()
    assert done.exit_code == 0 and len(farm.requests) == 1
    assert done.stderr.count("held by") == 1


def test_or_left_to_it(farm, go, tmp_path):
    manifest(tmp_path)
    farm.held = 1
    assert go("--if-held", "leave").exit_code == 0 and farm.requests == []


def test_missed_nights_are_told_of_and_caught_up_on_when_asked(farm, go, tmp_path):
    tonight, yesterday, before = (manifest(tmp_path, days_ago) for days_ago in range(3))
    done = go()
    assert [request.run_id for request in farm.requests] == [tonight]
    assert f"--date {yesterday.removeprefix('nightly-')} renders it" in done.stderr
    assert "--after-deadline go-on renders it" in go("--deadline", "23:59").stderr
    assert go("--missed", "catch-up", "--look-back", "1").exit_code == 0
    assert [request.run_id for request in farm.requests[1:]] == [yesterday]
    assert go("--missed", "catch-up").exit_code == 0
    assert [request.run_id for request in farm.requests[2:]] == [before]


def test_a_night_without_a_usable_manifest_does_not_keep_missed_ones_from_being_caught_up_on(farm, go, tmp_path):
    yesterday, before = (manifest(tmp_path, days_ago) for days_ago in (1, 2))
    done = go("--missed", "catch-up", "--json")
    assert done.exit_code == 14 and isinstance(done.exception, SystemExit)
    assert [request.run_id for request in farm.requests] == [yesterday, before]
    assert json.loads(done.stdout)["exit_code"] == 14


@pytest.mark.parametrize("code", [12, 13, 130])
def test_after_a_night_that_was_stopped_no_other_is_begun(farm, go, tmp_path, code):
    tonight, _ = (manifest(tmp_path, days_ago) for days_ago in range(2))
    farm.state, farm.code = "cancelled", code
    assert go("--missed", "catch-up").exit_code == code
    assert [request.run_id for request in farm.requests] == [tonight]


def test_one_manifest_for_all_nights_is_tonights_alone(farm, tmp_path):
    write_manifest(str(tmp_path / "tonight.parquet"), [RenderJob(job_id="a", prompt="a")])
    arguments = [str(tmp_path / "tonight.parquet"), "--output", str(tmp_path / "{date}"), "--missed", "catch-up"]
    done = CliRunner().invoke(nightly.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and len(farm.requests) == 1 and "missed" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--time-zone", "Mars"], ["--deadline", "7"], ["--date", "x"], ["--name", "a b"], ["--timeout", "3"]]
)
def test_what_cannot_work_is_2(farm, go, tmp_path, arguments):
    manifest(tmp_path)
    assert go(*arguments).exit_code == 2


# --- --check ---

YESTERDAY = (TODAY - timedelta(days=1)).isoformat()
CHECK = ("--check", "--deadline", "23:59")
"""The deadline of yesterday has passed, today's has not."""


def test_a_night_that_never_started_is_1_after_its_deadline(farm, go, tmp_path):
    manifest(tmp_path)
    manifest(tmp_path, days_ago=1)
    done = go(*CHECK)
    assert done.exit_code == 1 and farm.requests == []
    assert f"run nightly-{YESTERDAY} never started" in done.stderr


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("failed", 0), ("cancelled", 1)])
def test_only_a_night_that_is_not_over_is_1(farm, go, tmp_path, state, code):
    manifest(tmp_path, days_ago=1)
    farm.state = state
    go("--date", YESTERDAY)
    done = go(*CHECK, "--json")
    assert done.exit_code == json.loads(done.stdout)["exit_code"] == code
    assert ("unfinished films" in done.stderr) == (code == 1)
    assert len(farm.requests) == 1


def test_a_night_without_a_manifest_is_14_to_a_check(farm, go):
    done = go(*CHECK, "--wait-for-manifest", "3600")
    assert done.exit_code == 14 and YESTERDAY in done.stderr


def test_a_check_before_the_deadline_of_a_named_night_is_0(farm, go, tmp_path):
    manifest(tmp_path)
    assert go(*CHECK, "--date", TODAY.isoformat()).exit_code == 0


def test_a_check_needs_a_deadline(farm, go):
    assert go("--check").exit_code == 2


# --- heartbeat ---


@pytest.mark.parametrize(("state", "asked"), [("done", ["start", "0"]), ("failed", ["start", "10"])])
def test_a_heartbeat_url_is_asked_at_the_start_and_the_end_of_a_night(farm, go, tmp_path, monkeypatch, state, asked):
    manifest(tmp_path)
    farm.state = state
    with receiver() as server:
        monkeypatch.setenv("RENDER_FARM_NOTIFY_HEARTBEAT_URL", server.url + "/{event}")
        go()
        go()  # it is over, and not rendered again
        assert server.asked == [f"/hook/{event}" for event in asked]


def test_a_night_that_does_not_end_here_sends_no_end(farm, go, tmp_path, monkeypatch):
    with receiver() as server:
        monkeypatch.setenv("RENDER_FARM_NOTIFY_HEARTBEAT_URL", server.url + "/{event}")
        go()  # no manifest
        assert server.asked == []
        manifest(tmp_path)
        farm.held = 1
        go("--if-held", "leave")
        assert server.asked == ["/hook/start"]


def test_a_heartbeat_whose_server_is_down_does_not_stop_the_night(farm, go, tmp_path, monkeypatch):
    manifest(tmp_path)
    monkeypatch.setenv("RENDER_FARM_NOTIFY_HEARTBEAT_URL", "http://127.0.0.1:9/")
    monkeypatch.setattr("render_farm.observability.notices._CLOSE_WITHIN_S", 0.1)
    done = go()
    assert done.exit_code == 0 and len(farm.requests) == 1
    assert "not delivered within" in done.stderr


@pytest.mark.parametrize("url", ["ftp://host", "http://", "https://host/{events}", "https://host/{"])
def test_a_heartbeat_url_that_cannot_work_is_2(farm, go, tmp_path, monkeypatch, url):
    manifest(tmp_path)
    monkeypatch.setenv("RENDER_FARM_NOTIFY_HEARTBEAT_URL", url)
    assert go().exit_code == 2 and farm.requests == []
