"""`make gpu` without a GPU: every part runs and says what it should. Minutes on a GPU are not lost to a typo."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from render_farm.engine.bench.cases import SHAPES
from tests.gpu.__main__ import main
from tests.gpu.parts import PARTS


@pytest.mark.long
def test_every_part_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    little = replace(SHAPES["small"], height=64, width=64, num_frames=37, num_block_frames=37)
    monkeypatch.setitem(SHAPES, "small", little)
    given = ["tests.gpu", "--device", "cpu", "--shape", "small", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    code = main()
    said = capsys.readouterr()
    found = {line["part"]: line for line in map(json.loads, said.out.splitlines())}
    assert code == 0, said.out
    assert list(found) == list(PARTS)
    for mode in ("sync", "async", "full"):
        assert found[mode]["largest_difference"] < 1e-3
        assert found[mode]["predicted_s_a_step"] > 0
    assert found["attention"]["torch_flash"]["error"] < 1e-4 > found["attention"]["torch_flash"]["lse_error"]
    assert found["decoding"]["tf32"]["levels_apart"] == 0, "a CPU has no TF32"
    assert found["decoding"]["bfloat16"]["levels_apart"] > 0
    assert found["parking"]["same_frames"]
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
