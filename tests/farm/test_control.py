"""A run steered from another shell while it renders: pause, explain, priority, cancel, retry, resume."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.helpers import films


def farm(*arguments: str) -> dict:
    done = subprocess.run(films.command(*arguments, "--json"), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_is_steered_from_another_shell(tmp_path):
    slow = {**films.MANY_SEGMENTS, "num_inference_steps": 12}
    jobs = [films.job("a", **slow), films.job("b"), films.job("c")]
    output = tmp_path / "out"
    running = films.start_render(
        films.manifest(tmp_path, jobs), "--output", str(output), "--workers", "2", "--device", "cpu", "--json"
    )
    films.wait_for(lambda: films.num_segments_stored(output) >= 1, what="a stored segment")
    [run] = [str(path) for path in output.glob("_runs/*")]
    paused = farm("pause", run)
    assert (paused["ok"], paused["applied"]) == (True, "live")
    farm("priority", run, "c", "--to", "90")
    farm("cancel", run, "b", "--yes", "--reason", "not wanted")
    told = {job["job_id"]: job for job in farm("explain", run, "a", "b", "c")["jobs"]}
    assert told["a"]["state"] in ("waiting", "running")
    assert told["a"]["held_by"].startswith("process ")
    hosts = farm("hosts", "list", run)["hosts"]
    assert [host["num_workers"] for host in hosts] == [2]
    films.wait_for(
        lambda: farm("explain", run, "a")["jobs"][0].get("why", "").startswith("its run is paused"), what="the pause"
    )
    films.wait_for(lambda: farm("status", run)["is_live"], what="live.json")
    status = farm("status", run)
    assert (status["paused"], status["num_workers"], status["device"]) == (True, 2, "cpu")
    stored = films.num_segments_stored(output)
    assert running.poll() is None
    assert films.num_segments_stored(output) == stored
    if told["b"]["state"] == "cancelled":  # else it was done before it could be cancelled
        assert "not wanted" in told["b"]["text"]
        assert farm("retry", run, "b")["jobs"] == ["b"]
    assert farm("resume", run)["applied"] == "live"
    text, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert json.loads(text)["jobs"] == {"done": 3}
    assert not list(output.glob("_runs/*/control/*"))
    assert not list(output.glob("_runs/*/live.json"))
    events = farm("logs", run, "a", "--all")["events"]
    shown = {event["segment"] + 1 for event in events if event["kind"] == "preview_ready"}
    assert shown
    assert shown <= set(range(1, 12))  # of twelve: with the last one it is the film
    assert not [event for event in events if "preview ends" in event["message"]]
    again = farm("explain", run, "a")
    assert (again["applied"], again["jobs"][0]["state"]) == ("stored", "done")
