"""Jobs sent to a Ray cluster: one that has only just started, and tokens."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from threading import Thread
from types import SimpleNamespace
from typing import ClassVar

import pytest

from render_farm.errors import UsageError
from render_farm.farm.driver import ray_job as farm_submit


def test_neither_keys_nor_signatures_are_in_the_jobs_metadata(monkeypatch):
    sent: list[dict] = []
    left: list[tuple[str, str, dict]] = []

    class Client:
        def get_address(self) -> str:
            return "http://head:8265"

        def list_jobs(self) -> list:
            return []

        def submit_job(self, **job) -> None:
            sent.append(job)

        def _do_request(self, method: str, place: str, data: bytes) -> SimpleNamespace:
            left.append((method, place, json.loads(data)))
            return SimpleNamespace(status_code=200)

        def _package_exists(self, uri: str) -> bool:
            return True

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
    assert "secret" not in str(sent)
    [method, place, content] = left[0]
    assert (method, content) == ("PUT", {"variables": environment})
    name = place.removeprefix("/api/packages/gcs/")
    assert sent[0]["runtime_env"]["env_vars"] == {"RENDER_FARM_HANDOVER": f"gcs://{name}"}
    assert len(name) > 32 and left[1][1] != place


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


@pytest.mark.slow
def test_a_token_that_the_cluster_refuses_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    submission = farm_submit.Submission(run_id="r", output="s3://b", manifest=None, arguments=("render",))
    with ThreadingHTTPServer(("127.0.0.1", 0), _WithAToken) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UsageError, match=r"Forbidden: Invalid authentication token \(give") as refused:
            farm_submit.submit(submission, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "RAY_AUTH_TOKEN" in str(refused.value.advice)


@pytest.mark.slow
def test_a_cluster_that_has_only_just_started_is_waited_for(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StartingJobServer)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(farm_submit, "_LOOK_EVERY_S", 0.05)
    submission = farm_submit.Submission(run_id="r", output="s3://b", manifest=None, arguments=("render",))
    _StartingJobServer.refusals += ["No available agent to submit job, please try again later."] * 3
    try:
        done = farm_submit.submit(submission, address)
        assert (done.run_id, done.job_id) == (submission.run_id, "r-1")
        _StartingJobServer.refusals += ["the disk is full"]
        with pytest.raises(UsageError, match="the disk is full"):
            farm_submit.submit(submission, address)
    finally:
        server.shutdown()
        server.server_close()
    assert _StartingJobServer.jobs == ["r-1"]
