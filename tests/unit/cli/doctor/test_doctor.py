"""doctor as a process: on this machine, and where something is broken."""

from __future__ import annotations

import json

import pytest

from tests.helpers.program import run


@pytest.mark.slow
def test_doctor_on_this_machine(tmp_path):
    result = run("doctor", "--output", tmp_path / "out", "--model", "tiny", "--height", "128", "--json")
    report = json.loads(result.stdout)
    found = {check["name"]: check for check in report["checks"]}
    for name in ("Python", "packages", "torch", "Ray", "xfuser", "ffmpeg", "model tiny", "storage"):
        assert found[name]["status"] == "ok", found[name]
    assert result.returncode == (0 if report["ok"] else 1)
    assert any(check["name"] == "model tiny" and "64x128" in check["detail"] for check in report["checks"])
    assert report["memory"]["least_bytes"] > report["memory"]["transformer_bytes"] > 0
    assert not any((tmp_path / "out").rglob("object"))


def test_doctor_says_what_is_broken(s3_env):
    result = run("doctor", "--output", "s3://no-such-bucket-at-all/x", **s3_env.env)
    assert result.returncode == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("broken")]
    assert "storage" in line and "no-such-bucket-at-all" in line
    assert result.stdout.rstrip().endswith("not ready: see the lines that say broken")
