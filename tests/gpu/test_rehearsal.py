"""`make gpu` without a GPU: every part runs and says what it should. Minutes on a GPU are not lost to a typo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.parts import PARTS

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--shape", "small", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = {line["part"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert list(found) == list(PARTS)
    for mode in ("sync", "async", "full"):
        assert found[mode]["largest_difference"] < 1e-3
        assert found[mode]["predicted_s_a_step"] > 0
    assert found["attention"]["torch_flash"]["error"] < 1e-4 > found["attention"]["torch_flash"]["lse_error"]
    assert found["decoding"]["levels_apart"] == 0, "a CPU has no TF32"
    assert found["film"]["state"] == "done"
    [page] = tmp_path.glob("*-gpu.md")
    assert "| sync |" in page.read_text()


def test_what_does_not_fit_the_time_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from tests.gpu.__main__ import run
    from tests.gpu.parts import Machine

    results = run(Machine(device=torch.device("cpu"), shape="small"), 0.0, ["machine", "film"])
    assert [found["skipped"] for found in results] == ["no time left"] * 2
    assert len(capsys.readouterr().out.splitlines()) == 2
