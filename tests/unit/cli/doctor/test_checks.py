"""What doctor finds of libraries, GPUs, memory and disks."""

from __future__ import annotations

import socket

import pytest

from render_farm.cli.doctor import checks
from render_farm.cli.doctor.checks import Probe, Status
from render_farm.media.provenance_settings import ProvenanceSettings
from tests.helpers.signing_keys import write_signing_keys


@pytest.mark.slow
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


def test_a_local_file_named_as_a_library_is_not_imported_and_is_told(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "ray").mkdir()
    monkeypatch.chdir(tmp_path)
    code = "import importlib.util, json; print(json.dumps({'from': importlib.util.find_spec('torch').origin}))"
    assert not Probe(code).answer()[0]["from"].startswith(str(tmp_path))
    (finding,) = checks.check_working_folder(tmp_path)
    assert (finding.status, finding.detail) == (Status.NOTE, "has ray, torch, named as the libraries are")
    (tmp_path / "empty").mkdir()
    assert checks.check_working_folder(tmp_path / "empty") == []


def test_an_address_is_tried_before_a_run_needs_it(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert checks.check_address() == []
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        monkeypatch.setenv("RAY_ADDRESS", f"{host}:{port}")
        (finding,) = checks.check_address()
        assert finding.status is Status.OK
    (finding,) = checks.check_address()
    assert finding.status is Status.BROKEN and "$RAY_ADDRESS" in finding.detail
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    (finding,) = checks.check_address()
    assert finding.status is Status.BROKEN and "job server" in finding.detail


def test_a_home_that_cannot_be_written_and_a_token_that_expires_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    assert checks.check_home() == checks.check_credentials() == []
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    (home,), (token,) = checks.check_home(), checks.check_credentials()
    assert home.detail.endswith("missing cannot be written to")
    assert "expire" in token.detail and "secret" not in token.detail


def test_a_certificate_is_tried_before_a_night_needs_it(monkeypatch, tmp_path):
    pytest.importorskip("c2pa", reason="it comes with the extra `provenance`")
    chain, key = map(str, write_signing_keys(tmp_path))
    assert checks.check_signing(ProvenanceSettings()) == []
    (good,) = checks.check_signing(ProvenanceSettings(certificate=chain, private_key=key))
    assert (good.status, good.detail) == (Status.OK, "as Example Signer")
    (bad,) = checks.check_signing(ProvenanceSettings(certificate=chain, private_key=chain))
    assert (bad.status, bad.detail) == (Status.BROKEN, "[provenance] private_key holds no private key in PEM")
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    (missing,) = checks.check_signing(ProvenanceSettings(certificate=chain, private_key=key))
    assert (missing.status, missing.advice) == (Status.BROKEN, "pip install 'render_farm[provenance]'")
