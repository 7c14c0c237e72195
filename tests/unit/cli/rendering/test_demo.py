"""The verb demo and its jobs."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[4]


DEMO = ROOT / "render_farm/cli/demo_jobs.csv"


def test_the_demo_can_be_rendered(cli, tmp_path):
    path = tmp_path / "demo.parquet"
    assert cli("manifest", "build", DEMO, "-o", path).exit_code == 0
    plan = json.loads(cli("plan", path, "--json", "--strict").stdout)
    assert {job["model"] for job in plan["jobs"]} == {"tiny"}
    assert any(len(job["segments"]) > 2 for job in plan["jobs"])


def test_demo_renders_the_example_on_the_cpu(cli, rendered, tmp_path):
    output = tmp_path / "demo"
    result = cli("demo", "--output", output)
    assert result.exit_code == 0 and (output / "demo.parquet").exists()
    (request,) = rendered.requests
    assert (request.device, request.address, request.manifest) == ("cpu", "local", str(output / "demo.parquet"))
    assert "render-farm render my-jobs.parquet" in result.stderr
    assert cli("demo", "--output", "s3://bucket/x").exit_code == 2
