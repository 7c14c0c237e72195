"""What `doctor` asks of a machine. tests/farm/test_submit.py asks real ones."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import render_farm
from render_farm.farm.ray_cluster import check
from render_farm.farm.ray_cluster.environment import WorkerEnvironment


def test_the_same_code_counts_whatever_its_version_is_called():
    here = check.software()
    assert re.fullmatch(rf"{re.escape(render_farm.__version__)} \(code [0-9a-f]{{12}}\)", here)
    other_version = "0+unknown " + here.partition(" ")[2]
    other_code = here.replace("(code ", "(code x")
    assert check._examine(None, "", "", "", other_version, WorkerEnvironment())[0] == ()
    (problem,) = check._examine(None, "", "", "", other_code, WorkerEnvironment())[0]
    assert problem == f"has render_farm {here}, and this machine {other_code}"


def test_a_changed_file_is_other_code(tmp_path, monkeypatch):
    before = check.software()
    copy = tmp_path / "render_farm"
    shutil.copytree(
        Path(render_farm.__file__).parent, copy, ignore=shutil.ignore_patterns("*.npz", "model", "__pycache__")
    )
    monkeypatch.setattr(render_farm, "__file__", str(copy / "__init__.py"))
    assert check.software() == before
    (copy / "job.py").write_text((copy / "job.py").read_text() + "\n")
    assert check.software() != before
