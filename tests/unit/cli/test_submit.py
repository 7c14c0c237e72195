"""What `submit` sends to the cluster; tests/farm/test_submit.py sends it for real."""

from __future__ import annotations

import inspect
import json
import os
import shlex
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from threading import Thread
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from render_farm.cli.doctor.cluster_findings import findings_of
from render_farm.cli.flags import arguments_of
from render_farm.cli.main import app
from render_farm.cli.render import render
from render_farm.cli.submit import submit
from render_farm.errors import UsageError
from render_farm.farm.driver import ray_job as farm_submit
from render_farm.farm.ray_cluster.check import MachineReport
from render_farm.farm.ray_cluster.environment import carried_environment, digest_of_environment, driver_environment
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest


@pytest.fixture
def sent(monkeypatch):
    """Submissions, which go nowhere."""
    found = []

    def take(submission, address):
        found.append((submission, address))
        return farm_submit.Submitted(job_id="a-1", dashboard="http://head:8265", joined=False)

    monkeypatch.setattr(farm_submit, "submit", take)
    for name in ("RENDER_FARM_OUTPUT", "RENDER_FARM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return found


def call(*arguments: str):
    return CliRunner().invoke(app, ["submit", *arguments], catch_exceptions=False)


def test_every_flag_of_render_is_one_of_submit():
    ours, theirs = (set(inspect.signature(verb).parameters) for verb in (submit, render))
    assert theirs <= ours
    assert ours - theirs == {"env", "credentials", "working_dir", "pip", "runtime_env", "with_code"}


def test_a_local_manifest_goes_along_and_its_inputs_keep_their_place(sent, tmp_path):
    (tmp_path / "m").mkdir()
    path = tmp_path / "m/films.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    done = call(str(path), "--output", str(tmp_path / "out"), "--workers", "2", "--strict", "--max-failed", "5%")
    assert done.exit_code == 0, done.stderr
    (submission, address) = sent[0]
    assert address is None
    assert submission.files == {"films.parquet": str(path)}
    assert done.stdout.strip() == submission.run_id and submission.run_id.startswith("films-")
    words = list(submission.arguments)
    assert words[:2] == ["render", "films.parquet"] and "--strict" in words and "--workers=2" in words
    assert {f"--output={tmp_path}/out", f"--relative-to={tmp_path}/m", "--address=auto"} <= set(words)
    assert f"--run-id={submission.run_id}" in words
    assert "render-farm watch" in done.stderr


def test_rays_own_commands_are_told_of_a_token_that_was_found_here(sent, tmp_path, monkeypatch):
    def with_token(submission, address):
        os.environ["RAY_AUTH_MODE"] = "token"
        return farm_submit.Submitted(job_id="a-1", dashboard="http://head:8265", joined=False)

    path = tmp_path / "films.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "  ray job logs a-1" in call(str(path), "--output", "s3://bucket/films").stderr
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(farm_submit, "submit", with_token)
    assert "  RAY_AUTH_MODE=token ray job logs a-1" in call(str(path), "--output", "s3://bucket/films").stderr


def test_one_output_is_one_however_it_is_written(sent, tmp_path):
    path = tmp_path / "films.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    for output in ("s3://bucket/films", "s3://bucket/films/", "s3a://bucket/films"):
        assert call(str(path), "--output", output).exit_code == 0
    assert {submission.output for submission, _ in sent} == {"s3://bucket/films"}


def test_one_prompt_and_settings(sent, tmp_path):
    settings = tmp_path / "my.toml"
    settings.write_text('model = "tiny"\n')
    flags = [
        "--prompt",
        "it's a 'test'; rm -rf",
        "--steps",
        "2",
        "-o",
        "s3://b/out",
        "--config",
        str(settings),
        "--json",
    ]
    done = call(*flags)
    assert done.exit_code == 0, done.stderr
    document, (submission, _) = json.loads(done.stdout), sent[0]
    assert document["run"] == f"s3://b/out/_runs/{document['run_id']}" and document["joined"] is False
    assert submission.files == {"farm.toml": str(settings)}
    assert shlex.split(shlex.join(submission.arguments)) == list(submission.arguments)
    assert {"--prompt=it's a 'test'; rm -rf", "--steps=2", "--config=farm.toml"} <= set(submission.arguments)
    assert "--json" not in submission.arguments


def test_a_bad_manifest_is_found_before_anything_is_sent(sent, tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"no")
    assert call(str(tmp_path / "m.parquet"), "-o", "s3://b/out").exit_code == 2
    assert call(str(tmp_path / "none.parquet"), "-o", "s3://b/out").exit_code == 2
    assert call("--prompt", "p", "-o", "memory://x").exit_code == 2
    assert call("--prompt", "p", "-o", "s3://b/out", "--env", "NOT_SET_ANYWHERE").exit_code == 2
    assert sent == []


def test_packages_and_a_runtime_environment(sent, tmp_path):
    file = tmp_path / "env.yaml"
    file.write_text("pip: [av]\nenv_vars: {A: b}\n")
    assert call("--prompt", "p", "-o", "s3://b/o", "--runtime-env", str(file), "--pip", "ftfy").exit_code == 0
    assert sent[0][0].runtime_env == {"pip": ["av", "ftfy"], "env_vars": {"A": "b"}}
    file.write_text("[1]")
    assert call("--prompt", "p", "-o", "s3://b/o", "--runtime-env", str(file)).exit_code == 2


def test_arguments_that_are_defaults_are_left_out():
    defaults = {name: parameter.default for name, parameter in inspect.signature(render).parameters.items()}
    assert arguments_of(render, defaults) == []


def test_drivers_with_other_credentials_are_told_apart(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    one = digest_of_environment()
    monkeypatch.setenv("UNRELATED", "x")
    assert digest_of_environment() == one
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "two")
    assert digest_of_environment() != one and "two" not in digest_of_environment()
    # Inside a Ray Job, what it was submitted with counts.
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"env_vars": {"MINE": "1"}}}))
    in_job = digest_of_environment()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    assert digest_of_environment() == in_job and driver_environment() == {}


def test_machines_with_the_same_problem_are_on_one_line():
    reports = [MachineReport(host=f"h{n}", problems=("cannot write at s3://b: denied",)) for n in range(8)]
    reports += [MachineReport(host="g", problems=(), num_gpus=0, has_gpu_driver=True)]
    storage, gpus = findings_of(reports, "s3://b")
    assert storage.status == "broken" and "h0, h1, h2, h3, h4 and 3 more: cannot write" in storage.detail
    assert gpus.status == "note" and "g: has a GPU driver" in gpus.detail
    (fine,) = findings_of([MachineReport(host="h", problems=(), num_gpus=8, has_gpu_driver=True)], None)
    assert fine.status == "ok" and "give --output" in fine.detail


def test_what_is_taken_along():
    here = {
        "PATH": "/bin",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_PROFILE": "p",
        "RENDER_FARM_DTYPE": "float32",
        "RENDER_FARM_CONFIG": "/a/farm.toml",
        "MINE": "1",
    }
    assert carried_environment(here) == {"AWS_ACCESS_KEY_ID": "k", "RENDER_FARM_DTYPE": "float32"}
    assert carried_environment(here, credentials=False, extra=["MINE", "A=b=c", "E="]) == {
        "RENDER_FARM_DTYPE": "float32",
        "MINE": "1",
        "A": "b=c",
        "E": "",
    }
    with pytest.raises(UsageError, match="NAME=VALUE"):
        carried_environment(here, extra=["OTHER"])


def test_neither_keys_nor_signatures_are_in_the_jobs_metadata(monkeypatch):
    sent: list[dict] = []

    class Client:
        def get_address(self) -> str:
            return "http://head:8265"

        def list_jobs(self) -> list:
            return []

        def submit_job(self, **job) -> None:
            sent.append(job)

    monkeypatch.setattr(farm_submit, "_client", lambda address: Client())
    signed = "https://me:pass@host/films.parquet?X-Amz-Signature=secret"
    environment = {"AWS_SECRET_ACCESS_KEY": "secret"}
    for manifest in (signed, None):
        farm_submit.submit(
            farm_submit.Submission(
                run_id="r", output="s3://b", manifest=manifest, arguments=("render",), environment=environment
            ),
            None,
        )
    assert [job["metadata"]["manifest"] for job in sent] == ["https://host/films.parquet?...", ""]
    assert "secret" not in str([(job["metadata"], job["entrypoint"]) for job in sent])
    assert sent[0]["runtime_env"]["env_vars"] == environment


class _StartingJobServer(BaseHTTPRequestHandler):
    """A job server whose node's agent is not there yet, as often as `refusals` says."""

    refusals: ClassVar[list[str]] = []
    jobs: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        versions = {"version": "4", "ray_version": version("ray"), "ray_commit": "", "session_name": "s"}
        self._answer(200, json.dumps(versions if self.path == "/api/version" else []))

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["submission_id"]
        if self.refusals:
            self._answer(500, self.refusals.pop())
            return
        self.jobs.append(job)
        self._answer(200, json.dumps({"job_id": job, "submission_id": job}))

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


class _WithAToken(BaseHTTPRequestHandler):
    """A job server that knows another token."""

    def do_GET(self) -> None:
        body = b"Forbidden: Invalid authentication token"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_token_that_the_cluster_refuses_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    submission = farm_submit.Submission(run_id="r", output="s3://b", manifest=None, arguments=("render",))
    with ThreadingHTTPServer(("127.0.0.1", 0), _WithAToken) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UsageError, match=r"Forbidden: Invalid authentication token \(give") as refused:
            farm_submit.submit(submission, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "RAY_AUTH_TOKEN" in str(refused.value.advice)


def test_a_cluster_that_has_only_just_started_is_waited_for(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StartingJobServer)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(farm_submit, "_LOOK_EVERY_S", 0.05)
    submission = farm_submit.Submission(run_id="r", output="s3://b", manifest=None, arguments=("render",))
    _StartingJobServer.refusals += ["No available agent to submit job, please try again later."] * 3
    try:
        assert farm_submit.submit(submission, address).job_id == "r-1"
        _StartingJobServer.refusals += ["the disk is full"]
        with pytest.raises(UsageError, match="the disk is full"):
            farm_submit.submit(submission, address)
    finally:
        server.shutdown()
        server.server_close()
    assert _StartingJobServer.jobs == ["r-1"]
