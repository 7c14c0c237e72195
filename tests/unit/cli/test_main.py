"""The program: quick to start, streams apart, exit codes of the contract, no tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.program import ROOT, run


@pytest.mark.slow
def test_help_is_quick():
    best = min(_seconds(lambda: run("--help")) for _ in range(3))
    assert best < 1.5  # about 0.3 s on an idle machine; others may share it


def _seconds(action) -> float:
    started = time.monotonic()
    assert action().returncode == 0
    return time.monotonic() - started


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_bad_manifests_end_with_2_before_anything_starts(tmp_path):
    corrupt = tmp_path / "corrupt.parquet"
    corrupt.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    for manifest, code, message in (
        (tmp_path / "no.parquet", 14, "not found"),
        (corrupt, 2, "damaged or cut short"),
        (ROOT / "jobs/demo.csv", 2, "is not a Parquet file"),
    ):
        result = run("render", manifest, "--output", tmp_path / "out", "--json")
        assert (result.returncode, result.stdout) == (code, "")
        assert result.stderr.startswith(f"render-farm: {manifest}: ") and message in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_output_that_cannot_be_read_by_others_is_refused(tmp_path):
    manifest = tmp_path / "demo.parquet"
    run("manifest", "build", "jobs/demo.csv", "-o", manifest)
    result = run("render", manifest, "--output", "memory://out")
    assert (result.returncode, result.stdout) == (2, "") and "memory://" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_closed_pipe_is_quiet():
    code = f"{sys.executable} -m render_farm.cli models list | head -1"
    result = subprocess.run(code, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert result.stdout.startswith("model") and result.stderr == ""


@pytest.mark.slow
def test_streams_that_are_closed_are_no_error(tmp_path):
    code = f"{sys.executable} -m render_farm.cli gc -o {tmp_path}"
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        result = subprocess.run(f"{code} {closed}", shell=True, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (result.returncode, result.stderr) == (0, ""), closed


@pytest.mark.slow
def test_a_settings_file_that_is_no_text(tmp_path):
    (tmp_path / "farm.toml").write_bytes(b"\x8e\xff")
    result = run("gc", "-o", tmp_path, RENDER_FARM_CONFIG=str(tmp_path / "farm.toml"))
    assert result.returncode == 2 and result.stderr.startswith(
        f"render-farm: settings file {tmp_path}/farm.toml is not"
    )


@pytest.mark.slow
def test_a_terminal_that_cannot_show_the_drawing(tmp_path):
    manifest = tmp_path / "demo.parquet"
    run("manifest", "build", "jobs/demo.csv", "-o", manifest)
    result = run("plan", manifest, PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and "frames  98-177" in result.stdout


@pytest.mark.slow
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


VERBS = {
    *("render", "submit", "status", "watch", "logs", "explain", "pause", "resume", "cancel", "retry", "priority"),
    *("preview", "report", "serve", "plan", "simulate", "manifest", "models", "verify", "hosts", "gc", "bench"),
    *("doctor", "demo", "runs", "continue", "check", "pick", "nightly", "config"),
}


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_verbs_of_the_contract_only(cli, flag):
    result = cli(flag)
    assert result.exit_code == 0
    sections = result.stdout.partition("\nRender:")[2]
    listed = [line.split()[0] for line in sections.splitlines() if line.startswith("  ")]
    assert {"render", "plan", "doctor", "demo", "manifest", "models", "runs", "nightly"} <= set(listed) <= VERBS
    assert len(listed) == len(set(listed))


def test_version_is_printed(cli):
    from render_farm import __version__

    assert cli("--version").stdout == f"render-farm {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["render", "--nonsense"],
        ["plan"],
        ["manifest", "build", "x.csv"],
        ["render", "m.parquet", "-o", "out", "--device", "tpu"],
        ["render", "m.parquet", "-o", "out", "--workers", "0"],
        ["render", "m.parquet", "-o", "out", "--cfg-parallel", "3"],
        ["render", "m.parquet", "-o", "out", "--timeout", "soon"],
    ],
)
def test_usage_errors_are_2_on_stderr(cli, arguments):
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stdout == "" and "Usage: render-farm" in result.stderr


@pytest.mark.parametrize("verb", [["manifest", "check"], ["manifest", "show"], ["plan"]])
def test_a_missing_manifest_is_14_everywhere(cli, tmp_path, verb):
    missing = str(tmp_path / "no.parquet")
    result = cli(*verb, missing)
    assert (result.exit_code, result.stdout) == (14, "")
    assert result.stderr == f"render-farm: {missing}: not found (looked in {tmp_path})\n"
