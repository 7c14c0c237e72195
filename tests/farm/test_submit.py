"""A Ray cluster with its job server, whose machines know nothing of the store: runs as Ray Jobs, and nights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from render_farm.storage import open_store
from tests.helpers import films
from tests.helpers.ray_head import ray_command

NIGHTLY = str(Path(__file__).parents[2] / "jobs" / "nightly.py")


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
    )


@pytest.mark.long
def test_a_submitted_run_is_rendered_with_the_credentials_that_came_along(ray_head, s3_uri, tmp_path):
    server = ray_head.job_server
    manifest = films.manifest(tmp_path, [films.job("a")])
    submit = ["-m", "render_farm.cli", "submit", manifest, "-o", s3_uri, "--address", server]
    submit += ["--device", "cpu", "--workers", "1", "--json"]
    done = _run(*submit)
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["joined"] is False and job["job_id"] == f"{job['run_id']}-1"
    again = json.loads(_run(*submit).stdout)
    assert again["joined"] is True and again["job_id"] == job["job_id"]
    films.wait_for(lambda: _ended(server, job["job_id"]), timeout_s=200, what="the job's end")
    assert "succeeded" in _status(server, job["job_id"]), ray_command(
        "job", "logs", job["job_id"], f"--address={server}"
    )
    document = json.loads(open_store(s3_uri).read_bytes("a/job.json"))
    assert document["num_frames"] == 37


def test_a_job_whose_variables_are_gone_says_what_to_do(ray_head, tmp_path):
    manifest = films.manifest(tmp_path, [films.job("a")])
    left = {"RENDER_FARM_HANDOVER": "gcs://_ray_pkg_gone.zip", "RAY_ADDRESS": ray_head.address}
    done = _run("-m", "render_farm.cli", "render", manifest, "-o", str(tmp_path / "out"), **left)
    assert done.returncode == 2 and "submit the run again" in done.stderr, done.stderr


def _status(server: str, job_id: str) -> str:
    done = ray_command("job", "status", job_id, f"--address={server}")
    return (done.stdout + done.stderr).lower()


def _ended(server: str, job_id: str) -> bool:
    return any(word in _status(server, job_id) for word in ("succeeded", "failed", "stopped"))


def test_doctor_asks_the_machines_of_a_cluster(ray_head, s3_uri, s3_server, tmp_path):
    address = ray_head.address
    doctor = ["-m", "render_farm.cli", "doctor", "--address", address, "--output", s3_uri, "--json"]
    taken = _cluster_checks(_run(*doctor))
    assert [check["status"] for check in taken] == ["ok", "ok"], taken
    assert "AWS_ACCESS_KEY_ID" in taken[0]["detail"]
    # A file of this machine opens the store here, and does not go along.
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
    here_only = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": str(file)}
    done = _run(*doctor, **here_only, AWS_EC2_METADATA_DISABLED="true")
    alone = _cluster_checks(done)
    assert done.returncode == 1 and alone[-1]["status"] == "broken", alone
    assert "cannot write" in alone[-1]["detail"]


def _cluster_checks(done: subprocess.CompletedProcess[str]) -> list[dict]:
    checks = json.loads(done.stdout)["checks"]
    storage = next(check for check in checks if check["name"] == "storage")
    assert storage["status"] == "ok", storage
    return [check for check in checks if check["name"].startswith("cluster")]


@pytest.mark.long
def test_a_night_that_is_started_twice_is_rendered_once(ray_head, tmp_path):
    address = ray_head.address
    (tmp_path / "manifests").mkdir()
    films.manifest(tmp_path / "manifests", [films.job("b", **films.THREE_SEGMENTS)], "2030-01-31.parquet")
    night = [
        NIGHTLY, str(tmp_path / "manifests/{date}.parquet"), "--output", str(tmp_path / "films/{date}"),
        "--date", "2030-01-31", "--deadline", "07:00", "--address", address, "--device", "cpu",
        "--workers", "1", "--json",
    ]  # fmt: skip
    both = [
        subprocess.Popen([sys.executable, *night], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert json.loads(out)["nights"][0]["run_id"] == "nightly-2030-01-31"
    output = tmp_path / "films/2030-01-31"
    films.assert_complete(output, "b", num_frames=53)
    segments = films.document(output, "b")["segments"]
    assert len(segments) == 3 and len(films.latents_stored(output)) <= 3
