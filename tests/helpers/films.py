"""Small films and the commands that render them, for the tests of the farm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.media.mp4 import probe_mp4
from render_farm.observability.events import EventKind, LogLine
from render_farm.report.run_folder import RunFolderReader
from render_farm.storage.open import open_store

RAY = str(Path(sys.executable).with_name("ray"))

TWO_SEGMENTS = {"num_frames": 37, "base_num_frames": 21, "overlap_history": 5}
"""Latent windows [0,6) and [4,10)."""
THREE_SEGMENTS = {"num_frames": 53, "base_num_frames": 21, "overlap_history": 5}
MANY_SEGMENTS = {"num_frames": 197, "base_num_frames": 21, "overlap_history": 5}
"""Twelve: a film that is still being rendered when a test has done something else."""
SMALL = {"height": 32, "width": 32, "num_inference_steps": 2}


def job(job_id: str, **values) -> RenderJob:
    """A film of two segments that takes well under a second to render."""
    return RenderJob(job_id=job_id, **{"prompt": "a red circle moving right", **SMALL, **TWO_SEGMENTS, **values})


def manifest(folder: Path, jobs: list[RenderJob], name: str = "films.parquet") -> str:
    write_manifest(str(folder / name), jobs)
    return str(folder / name)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "render_farm.cli.main", *arguments]


def render(*arguments: str, timeout_s: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `render-farm render ...` as a user would."""
    return subprocess.run(
        command("render", *arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **environment},
    )


def start_render(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The same in the background, in a process group of its own as a shell starts it."""
    return subprocess.Popen(
        command("render", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env={**os.environ, **environment},
    )


def wait_for(condition, *, timeout_s: float = 240, what: str = "it") -> None:
    """Poll until `condition()` holds."""
    stop = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.05)


def latents_stored(output: Path) -> list[Path]:
    """Files of segments, the oldest first."""
    return sorted(output.glob("_work/_segments/*/*.safetensors"), key=lambda path: path.stat().st_mtime_ns)


def num_segments_stored(output: Path) -> int:
    return len(list(output.glob("_work/_segments/*/*.json")))


def results(output: Path, run_id: str = "*") -> dict[str, dict]:
    """Rows of the results of a run, or of the only one, by job id."""
    path = next(output.glob(f"_runs/{run_id}/results.parquet"))
    return {row["job_id"]: row for row in pq.read_table(path).to_pylist()}


def events(output: Path, kind: EventKind) -> list[LogLine]:
    """The one run's events of a kind."""
    [run] = (output / "_runs").iterdir()
    return [line for line in RunFolderReader(open_store(output), run.name).read().events if line.kind == kind]


def latents(output: Path, job_id: str) -> np.ndarray:
    return load_file(output / job_id / "latents.safetensors")["latents"]


def document(output: Path, job_id: str) -> dict:
    return json.loads((output / job_id / "job.json").read_text())


def assert_complete(output: Path, job_id: str, num_frames: int = 37, width: int = 32) -> None:
    """The film is there, whole, under its final names."""
    video = probe_mp4(output / job_id / "video.mp4")
    assert (video.num_frames, video.width, video.height) == (num_frames, width, 32)
    assert (output / job_id / "poster.jpg").stat().st_size > 0
    assert document(output, job_id)["num_frames"] == num_frames
    assert not [path for path in (output / job_id).iterdir() if path.name.startswith(".")]
