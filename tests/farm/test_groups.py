"""Render groups on a real Ray: two workers render what one renders, a killed one costs one segment at most, and idle
ones join the last film."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from render_farm import RenderJob, load_engine
from render_farm.planning.groups import GroupShape
from tests.helpers import films
from tests.helpers.film_tasks import film_task
from tests.helpers.group_work import render_alone, stored, together
from tests.helpers.processes import children_named
from tests.helpers.ranks import rank_pool

NO_COST = {"RENDER_FARM_GROUP_EXCHANGE_S": "1e-12", "RENDER_FARM_GROUP_BYTES_PER_S": "1e18"}
"""Of exchanges: by the cost model such small films are rendered and decoded by one worker otherwise."""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_group_renders_what_one_worker_renders_and_survives_the_loss_of_a_rank(tmp_path):
    job = films.job("film", **{**films.THREE_SEGMENTS, "num_inference_steps": 60, "height": 64, "width": 64})
    degrees = ["--ulysses", "2", "--ring", "auto"]
    arguments = ["--output", str(tmp_path / "out"), "--workers", "2", *degrees, "--keep-latents", "--device", "cpu"]
    running = films.start_render(films.manifest(tmp_path, [job]), *arguments, **NO_COST)
    films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 1, what="a stored segment")
    assert _listening_addresses(running.pid) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    os.kill(children_named(running.pid, "ray::RenderWorker")[-1].pid, signal.SIGKILL)
    _, errors = running.communicate(timeout=500)
    assert running.returncode == 0, errors
    assert films.results(tmp_path / "out")["film"]["state"] == "done"
    segments = films.document(tmp_path / "out", "film")["segments"]
    assert [segment["group_shape"] for segment in segments] == [[1, 2, 1]] * 3
    seconds = sum(segment["seconds"] for segment in segments)
    assert films.results(tmp_path / "out")["film"]["gpu_s"] == pytest.approx(2 * seconds, abs=0.01)
    alone = load_engine("tiny", device="cpu").render(job).latents.numpy()
    assert np.abs(films.latents(tmp_path / "out", "film") - alone).max() <= 1e-4
    assert films.document(tmp_path / "out", "film")["num_frames"] == 53


def _listening_addresses(pid: int) -> set[str]:
    """Where a private Ray, its workers and their group can be reached."""
    found = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {c.laddr.ip for c in process.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN}
    return found


def test_a_group_larger_than_the_farm_is_refused(tmp_path):
    manifest = films.manifest(tmp_path, [films.job("film", ulysses=4, height=64, width=64)])
    done = films.render(manifest, "--output", str(tmp_path / "out"), "--workers", "2", "--device", "cpu")
    assert done.returncode == 2
    assert "4 workers for one segment" in done.stderr and "--workers 4" in done.stderr
    assert "cfg 1 x ulysses 2 x ring 1 would work" in done.stderr


LONG = {"num_frames": 101, "base_num_frames": 21, "overlap_history": 5, "num_inference_steps": 20, "seed": 3}
"""Six segments."""


@pytest.mark.long
def test_idle_workers_join_the_last_film_at_its_next_segment(tmp_path):
    size = {"height": 64, "width": 64}
    jobs = [films.job("long", **size, **LONG), films.job("short", **{**size, "num_frames": 21})]
    arguments = ["--workers", "2", "--ulysses", "auto", "--keep-latents", "--device", "cpu"]
    done = films.render(films.manifest(tmp_path, jobs), "--output", str(tmp_path / "out"), *arguments, **NO_COST)
    assert done.returncode == 0, done.stderr
    segments = films.document(tmp_path / "out", "long")["segments"]
    degrees = [dict(zip(("cfg", "ulysses", "ring"), segment["group_shape"], strict=True)) for segment in segments]
    shapes = [GroupShape(**named) for named in degrees]
    sizes = [shape.size for shape in shapes]
    assert sizes[0] == 1 and 2 in sizes  # where a group turns out slower, on a busy machine, one worker goes on
    again = _rendered_by(shapes, tmp_path / "again", jobs[0])
    assert np.array_equal(films.latents(tmp_path / "out", "long"), again)


def _rendered_by(shapes: list[GroupShape], output: Path, job: RenderJob) -> np.ndarray:
    """A film's latents, each segment by a group of its own shape."""
    values = {name: getattr(job, name) for name in ("height", "width", *LONG)}
    task = film_task(load_engine("tiny", device="cpu"), output, job.job_id, **values)
    with rank_pool(2) as pool:
        pool.call(torch.set_num_threads, [(max(1, (os.cpu_count() or 1) // 2),)] * 2)  # as the run's workers have
        for segment, shape in enumerate(shapes):
            if shape.size > 1:
                led, _ = together(pool, task, segment, 0, 1, shape=shape)
                assert isinstance(led, tuple), led
            else:
                pool.send(0, render_alone, (0, task, segment))
                pool.result(0)
    return stored(task)
