"""What doctor finds of libraries, GPUs, memory and disks."""

from __future__ import annotations

import pytest

from render_farm.cli.doctor import checks
from render_farm.cli.doctor.checks import Probe, Status


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise ImportError('no torch here')", "ImportError: no torch here"),
        ("import os; os._exit(7)", "ended with 7"),
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
    ],
)
def test_a_library_that_fails_does_not_take_doctor_with_it(monkeypatch, code, why):
    monkeypatch.setattr(checks, "_PROBE_S", 0.5 if "sleep" in code else 30.0)
    (finding,), gpus = checks.check_torch(Probe(code))
    assert gpus == []
    assert (finding.status, finding.detail) == (Status.BROKEN, why)


def test_gpus_are_listed():
    gpus = '[{"name": "H100", "free": 85899345920, "total": 85899345920}]'
    code = f"""print('{{"version": "2.13", "cuda": "13.0", "gpus": {gpus}}}')"""
    (torch, gpu), found = checks.check_torch(Probe(code))
    assert found[0]["total"] == 85899345920
    assert torch.detail == "2.13, CUDA 13.0"
    assert (gpu.name, gpu.detail) == ("GPU 0", "H100, 80.0 GiB of 80.0 GiB free")


def test_too_little_memory_or_disk_is_broken(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "available_memory_bytes", lambda: 1 << 29)
    assert checks.check_memory().status is Status.BROKEN
    monkeypatch.setattr(checks, "available_memory_bytes", lambda: None)
    assert checks.check_memory().status is Status.NOTE
    usage = checks.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage)
    assert {finding.status for finding in checks.check_disk(str(tmp_path / "not" / "yet"))} == {Status.BROKEN}
