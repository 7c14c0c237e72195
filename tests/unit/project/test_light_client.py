"""The core of the package, installed alone: every verb of a client works, and the others say which extra they need."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.program import ROOT
from tests.helpers.synthetic_run import write_run

Client = Callable[..., subprocess.CompletedProcess[str]]
JOB = "shot-0007"
pytestmark = pytest.mark.timeout(600)  # the first test installs


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the core packages of the lock and render_farm's source."""
    folder = tmp_path_factory.mktemp("client")
    needed = subprocess.run(
        [sys.executable, ".ci/requirements.py", "needed"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (folder / "needed.txt").write_text(needed.stdout)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    install = ["install", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    pip = [sys.executable, "-m", "pip", "--python", str(python), *install, "-r", str(folder / "needed.txt")]
    subprocess.run(pip, check=True, timeout=250)
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "check"], check=True)
    return python


@pytest.fixture(scope="module")
def client(python: Path) -> Client:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "render_farm.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"HOME": "/nowhere"}, timeout=120)

    return run


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("films")
    write_run(output, num_films=1)
    return output


@pytest.mark.long
def test_every_verb_of_a_client_works(client: Client, output: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "demo.parquet"
    at = ("--output", output)
    for arguments in (
        ("manifest", "build", "jobs/demo.csv", "-o", manifest),
        ("manifest", "check", manifest),
        ("manifest", "show", manifest),
        ("plan", manifest),
        ("simulate", manifest, "--gpus", "2"),
        ("models", "list"),
        ("models", "info", "tiny"),
        ("models", "info", "df-14b-540p"),
        ("status", "night", *at),
        ("logs", "night", *at),
        ("explain", "night", JOB, *at),
        ("preview", "night", *at),
        ("report", "night", *at),
        ("hosts", "list", "night", *at),
        ("pause", "night", *at),
        ("resume", "night", *at),
        ("priority", "night", JOB, "--to", "90", *at),
        ("retry", "night", JOB, *at),
        ("cancel", "night", *at, "--yes"),
        ("gc", *at, "--yes"),
    ):
        done = client(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert client("watch", "night", *at).returncode in (0, 11, 12), "as the run ended"


@pytest.mark.long
def test_reports_are_served_and_a_run_is_looked_at_from_python(python: Path, output: Path) -> None:
    code = f"import render_farm; print(render_farm.run_status('night', output={str(output)!r}).num_jobs)"
    assert subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout == b"40\n"
    command = [python, "-m", "render_farm.cli", "serve", "--output", output, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(word for line in server.stdout for word in line.split() if word.startswith("http"))
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"night" in page.read()
        finally:
            server.terminate()


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("render", "--prompt", "x", "-o", "OUT"), "worker"),
        (("submit", "--prompt", "x", "-o", "OUT", "--address", "http://127.0.0.1:1"), "worker"),
        (("demo", "-o", "OUT"), "worker"),
        (("verify", "tiny"), "worker"),
        (("bench", "engine"), "worker"),
        (("doctor", "--address", "auto"), "worker"),
        (("status", "night", "-o", "gs://bucket/films"), "gcs"),
        (("status", "night", "-o", "abfs://films/x"), "azure"),
    ],
)
def test_a_verb_that_needs_more_names_the_extra(
    client: Client, arguments: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    done = client(*(str(tmp_path / "out") if word == "OUT" else word for word in arguments))
    assert done.returncode == 2, done.stderr
    assert f"pip install 'render_farm[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_doctor_says_what_rendering_lacks(client: Client) -> None:
    done = client("doctor", "--json")
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert found["torch"]["advice"] == found["Ray"]["advice"] == "pip install 'render_farm[worker]'"
    assert found["xfuser"]["status"] == "note"
