"""A Ray cluster that stays, for the tests that attach to one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import films
from tests.helpers.films import RAY
from tests.helpers.fixtures_s3 import free_port
from tests.helpers.ray_head import RayHead, ray_command

# Ray gives its workers a low priority, which a busy machine turns into minutes; these tests have time-outs.
# A node ends when its agent, a Python process, has not started within 30 s.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")


def _use_tokens() -> None:
    """Ray makes a token when it first starts a cluster, and asks for it from then on; but a process that looked at some
    cluster before, without one, goes on without."""
    token = Path.home() / ".ray" / "auth_token"
    token.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError), token.open("x") as file:
        token.chmod(0o600)
        file.write(secrets.token_hex(32))
    os.environ.setdefault("RAY_AUTH_MODE", "token")


_use_tokens()


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    """A cluster of its own ports and folder, with the job server."""
    port, dashboard = free_port(), free_port()
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # sockets need a short path
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_AUTH"))}
    environment["PATH"] = f"{Path(RAY).parent}:{environment['PATH']}"  # `python` of a job is found there
    start = [
        RAY, "start", "--head", f"--port={port}", "--num-cpus=4", "--dashboard-host=127.0.0.1", "--block",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats",
        f"--temp-dir={folder}", "--object-store-memory=100000000",
    ]  # fmt: skip
    process = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    head = RayHead(address=f"127.0.0.1:{port}", job_server=f"http://127.0.0.1:{dashboard}", folder=folder)
    try:
        films.wait_for(
            lambda: ray_command("job", "list", f"--address={head.job_server}").returncode == 0,
            what="the Ray cluster's start",
        )
        yield head
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
