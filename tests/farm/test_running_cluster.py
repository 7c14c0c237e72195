"""Attaching to a Ray cluster that was there before and stays afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.farm import films
from tests.fixtures_s3 import free_port

RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A one-node cluster of its own port and folder."""
    port = free_port()
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # sockets need a short path
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    start = [
        RAY, "start", "--head", f"--port={port}", "--num-cpus=4", "--include-dashboard=false", "--block",
        "--disable-usage-stats", f"--temp-dir={folder}", "--object-store-memory=100000000",
    ]  # fmt: skip
    head = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        films.wait_for(lambda: _answers(f"127.0.0.1:{port}"), what="the Ray cluster's start")
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(address: str) -> bool:
    status = subprocess.run(
        [RAY, "status", f"--address={address}"],
        capture_output=True,
        timeout=60,
        env={**os.environ, "RAY_AUTH_MODE": "token"},
    )
    return status.returncode == 0


def test_two_runs_on_a_running_cluster(address, tmp_path):
    arguments = ["--output", str(tmp_path / "out"), "--address", address, "--workers", "1", "--device", "cpu", "--json"]
    first = films.render(films.manifest(tmp_path, [films.job("a")], "one.parquet"), *arguments)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["jobs"] == {"done": 1}
    second = films.render(films.manifest(tmp_path, [films.job("b")], "two.parquet"), *arguments)
    assert second.returncode == 0, second.stderr
    films.assert_complete(tmp_path / "out", "a")
    films.assert_complete(tmp_path / "out", "b")
    assert _answers(address)


def test_an_address_without_a_cluster_is_exit_code_2(tmp_path):
    manifest = films.manifest(tmp_path, [films.job("a")])
    done = films.render(manifest, "--output", str(tmp_path / "out"), "--address", "127.0.0.1:1")
    assert done.returncode == 2, done.stderr
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
