"""Command lines through typer's runner. Rendering itself is a stand-in."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.farm.run.outcome import RunOutcome
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.observability.events import LogLine
from render_farm.observability.snapshot import RunSnapshot


@pytest.fixture
def cli(monkeypatch):
    """Run a command line; the result has exit_code, stdout, stderr."""
    for name in ("RENDER_FARM_OUTPUT", "RENDER_FARM_CONFIG", "RENDER_FARM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def manifest(tmp_path):
    path = str(tmp_path / "m.parquet")
    write_manifest(
        path,
        [
            RenderJob(job_id="short", prompt="a", model="tiny", num_frames=33),
            RenderJob(job_id="long", prompt=["a", "b"], model="tiny", num_frames=257, seed=5),
            RenderJob(job_id="async", prompt="a", num_frames=97, ar_step=2, causal_block_size=5),
        ],
    )
    return path


@pytest.fixture
def bad_manifest(tmp_path):
    path = str(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"job_id": ["a", "b"], "prompt": ["p", "p"], "num_frames": [0, 33]}), path)
    return path


@pytest.fixture
def rendered(monkeypatch):
    """A stand-in for the farm's driver. It notes the requests; its outcome or error can be set."""

    def render_run(request, *, on_snapshot):
        stand_in.requests.append(request)
        if stand_in.error:
            raise stand_in.error
        line = LogLine(number=1, time_s=0.0, level="info", job_id="a", message="something happened")
        values = {"run_id": "run-1", "output": request.output, "state": "running", "jobs": {"running": 1}}
        on_snapshot(RunSnapshot(**values, log=(line,), note="starting"))
        return RunOutcome(
            run_id="run-1",
            output=request.output,
            state=stand_in.state,
            jobs=stand_in.jobs,
            exit_code=stand_in.exit_code,
        )

    stand_in = SimpleNamespace(
        render_run=render_run,
        check_installed=lambda: None,
        requests=[],
        error=None,
        state="done",
        jobs={"done": 1},
        exit_code=0,
    )
    monkeypatch.setitem(sys.modules, "render_farm.farm.driver.render_run", stand_in)
    return stand_in
