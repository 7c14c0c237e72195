"""A real Prometheus for tests, on a free loopback port. Without one the tests are skipped, except where
RENDER_FARM_NEEDS_PROMETHEUS says to fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fixtures_s3 import free_port


def programs() -> tuple[str, str]:
    """Paths of `prometheus` and `promtool`; skips or fails the test when they are not there."""
    found = shutil.which("prometheus"), shutil.which("promtool")
    if None in found:
        needed = os.environ.get("RENDER_FARM_NEEDS_PROMETHEUS")
        (pytest.fail if needed else pytest.skip)("no Prometheus is here (apt-get install prometheus)")
    return str(found[0]), str(found[1])


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A running server."""

    address: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query. AssertionError with Prometheus' words for one that it does not understand."""
        url = f"{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error

    def rules(self) -> list[dict[str, Any]]:
        """Its rules, with `health` and `lastError`."""
        with urllib.request.urlopen(f"{self.address}/api/v1/rules", timeout=30) as answer:
            return [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]

    def targets(self) -> list[str]:
        """The addresses that it scrapes, host:port."""
        with urllib.request.urlopen(f"{self.address}/api/v1/targets", timeout=30) as answer:
            return [target["labels"]["instance"] for target in json.load(answer)["data"]["activeTargets"]]


@contextmanager
def running(config: Path) -> Iterator[Prometheus]:
    """A server with this configuration, for the length of a block; its data lies beside it."""
    port = free_port()
    command = [
        programs()[0], f"--config.file={config}", f"--storage.tsdb.path={config.parent / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with open(config.parent / "prometheus.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Prometheus(address=f"http://127.0.0.1:{port}")
    try:
        stop = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{server.address}/-/ready", timeout=10).close()
                break
            except OSError:  # nobody listens yet, or a 503
                assert process.poll() is None and time.monotonic() < stop, (
                    config.parent / "prometheus.log"
                ).read_text()
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)
