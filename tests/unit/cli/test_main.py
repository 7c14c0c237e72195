"""The installed program as a process: quick to start, streams apart, codes of the contract, no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from render_farm.cli.doctor import checks
from render_farm.cli.doctor.checks import Probe, Status

ROOT = Path(__file__).parents[3]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RENDER_FARM_")}
    return subprocess.run(
        [sys.executable, "-m", "render_farm.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, **environment},
        timeout=120,
        check=False,
    )


def test_help_is_quick():
    best = min(_seconds(lambda: run("--help")) for _ in range(3))
    assert best < 1.5  # about 0.3 s on an idle machine; others may share it


def _seconds(action) -> float:
    started = time.monotonic()
    assert action().returncode == 0
    return time.monotonic() - started


def test_help_and_plan_load_neither_torch_nor_ray(tmp_path):
    manifest = tmp_path / "demo.parquet"
    assert run("manifest", "build", "jobs/demo.csv", "-o", manifest).returncode == 0
    code = (
        "import sys; from typer.testing import CliRunner; from render_farm.cli.main import app\n"
        "result = CliRunner().invoke(app, sys.argv[1:]); assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'xfuser'} & set(sys.modules); assert not heavy, heavy"
    )
    for arguments in (["--help"], ["render", "--help"], ["plan", str(manifest)], ["manifest", "check", str(manifest)]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=ROOT, timeout=60)


def test_looking_at_models_and_a_run_with_nothing_to_render_load_neither(tmp_path):
    """A command that starts a private Ray on CPUs leaves torch to its workers."""
    (tmp_path / "m.csv").write_text("job_id,prompt,num_frames,causal_block_size\na,x,97,4\n")
    manifest = tmp_path / "m.parquet"
    assert run("manifest", "build", tmp_path / "m.csv", "-o", manifest).returncode == 0
    code = (
        "import sys; from typer.testing import CliRunner; from render_farm.cli.main import app\n"
        "result = CliRunner().invoke(app, sys.argv[2:]); assert result.exit_code == int(sys.argv[1]), result.output\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'xfuser'} & set(sys.modules); assert not heavy, heavy"
    )
    for arguments in (
        ["0", "models", "info", "df-1.3b-540p"],
        ["10", "render", str(manifest), "--output", str(tmp_path / "out"), "--device", "cpu"],
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, timeout=60, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_bad_manifests_end_with_2_before_anything_starts(tmp_path):
    corrupt = tmp_path / "corrupt.parquet"
    corrupt.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    for manifest, message in (
        (tmp_path / "no.parquet", "not found"),
        (corrupt, "damaged or cut short"),
        (ROOT / "jobs/demo.csv", "is not a Parquet file"),
    ):
        result = run("render", manifest, "--output", tmp_path / "out", "--json")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"render-farm: {manifest}: ") and message in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_read_by_others_is_refused(tmp_path):
    manifest = tmp_path / "demo.parquet"
    run("manifest", "build", "jobs/demo.csv", "-o", manifest)
    result = run("render", manifest, "--output", "memory://out")
    assert (result.returncode, result.stdout) == (2, "") and "memory://" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_closed_pipe_is_quiet():
    code = f"{sys.executable} -m render_farm.cli models list | head -1"
    result = subprocess.run(code, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert result.stdout.startswith("model") and result.stderr == ""


def test_streams_that_are_closed_are_no_error(tmp_path):
    code = f"{sys.executable} -m render_farm.cli gc -o {tmp_path}"
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        result = subprocess.run(f"{code} {closed}", shell=True, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (result.returncode, result.stderr) == (0, ""), closed


def test_a_settings_file_that_is_no_text(tmp_path):
    (tmp_path / "farm.toml").write_bytes(b"\x8e\xff")
    result = run("gc", "-o", tmp_path, RENDER_FARM_CONFIG=str(tmp_path / "farm.toml"))
    assert result.returncode == 2 and result.stderr.startswith(
        f"render-farm: settings file {tmp_path}/farm.toml is not"
    )


def test_a_terminal_that_cannot_show_the_drawing(tmp_path):
    manifest = tmp_path / "demo.parquet"
    run("manifest", "build", "jobs/demo.csv", "-o", manifest)
    result = run("plan", manifest, PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and "frames  98-177" in result.stdout


def test_a_defect_is_one_line_and_the_traceback_is_kept(tmp_path):
    code = (
        "import sys; sys.argv[1:] = ['models', 'list']\n"
        "import render_farm.cli.models as models; models.table = lambda *a: 1 / 0\n"
        "from render_farm.cli.main import main; main()"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert result.returncode == 1
    first, second = result.stderr.splitlines()
    assert first == "render-farm: internal error: ZeroDivisionError: division by zero"
    kept = Path(second.removeprefix("the traceback is in "))
    assert kept.parent == tmp_path and "ZeroDivisionError" in kept.read_text()


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
