"""Files of the working directory that have the names of libraries are not taken for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import render_farm
from tests.helpers import films

NAMES = (
    "torch",
    "diffusers",
    "numpy",
    "PIL",
    "safetensors",
    "pyarrow",
    "ray",
    "imageio_ffmpeg",
    "random",
    "statistics",
)


@pytest.mark.long
def test_workers_and_children_import_the_libraries_and_not_what_is_named_so(tmp_path):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was taken from the working directory')\n")
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("raise SystemExit('transformers, too')\n")
    manifest = films.manifest(tmp_path, [films.job("a", num_frames=21)])
    # -P is what the installed command does: it does not put the working directory first, as `python -m` does.
    rendering = ["render", manifest, "-o", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "render_farm.cli.main", *rendering],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(render_farm.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    films.assert_complete(tmp_path / "out", "a", num_frames=21)
