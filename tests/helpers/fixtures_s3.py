"""A real S3 server process (moto's) for tests, on a free loopback port.

`s3_server` (session) is the process; `s3_uri` (per test) points the environment at it and gives a fresh bucket.
Run as a program, this file is that server: moto's application behind a lock, because moto looks for an object and
then stores it, and two create-only writes at once could both succeed, which S3 rules out.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ACCESS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
FOREIGN = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """A running server. `env` is what a child process needs to reach it."""

    endpoint: str
    process: subprocess.Popen = field(repr=False)

    @property
    def env(self) -> dict[str, str]:
        return {**ACCESS, "AWS_ENDPOINT_URL": self.endpoint}

    def client(self) -> Any:
        """A boto3 client: looks at the server past the code under test."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=ACCESS["AWS_DEFAULT_REGION"],
            aws_access_key_id=ACCESS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
        )

    def new_bucket(self) -> str:
        bucket = f"farm-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=bucket)
        return bucket


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_s3_server(timeout_s: float = 60.0) -> S3Server:
    """Start a server and wait until it answers. RuntimeError with its output when it does not."""
    for _ in range(3):  # the port may be taken between looking and binding
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(port)],
            stdin=subprocess.PIPE,  # never written: its end tells the server that the tests are gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout_s
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
                return S3Server(endpoint=f"http://127.0.0.1:{port}", process=process)
            except OSError:
                time.sleep(0.05)
        stop_s3_server(S3Server(endpoint="", process=process))
    raise RuntimeError("moto's server did not start; is moto[server] installed?")


def stop_s3_server(server: S3Server) -> None:
    server.process.terminate()
    try:
        server.process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    if server.process.stdin:
        server.process.stdin.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = start_s3_server()
    yield server
    stop_s3_server(server)


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with this process's environment (and so its children's) pointing at it."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def s3_uri(s3_env: S3Server) -> str:
    """URI of a prefix in a fresh bucket."""
    return f"s3://{s3_env.new_bucket()}/out"


def serve(port: int) -> None:
    """Run the server until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    application = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def locked(environ: dict, start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] not in ("PUT", "POST"):
            return application(environ, start_response)
        with one_at_a_time:
            return application(environ, start_response)

    def end_with_the_tests() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_the_tests, daemon=True).start()
    run_simple("127.0.0.1", port, locked, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    os.environ["MOTO_PORT"] = sys.argv[1]
    serve(int(sys.argv[1]))
