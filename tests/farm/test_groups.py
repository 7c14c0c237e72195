"""Render groups on a real Ray: two workers render what one renders, and a killed one costs one segment at most."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy as np
import psutil
import pytest

from render_farm import load_engine
from tests.farm import films
from tests.farm.test_worker_faults import children_named


@pytest.mark.timeout(600)
def test_a_group_renders_what_one_worker_renders_and_survives_the_loss_of_a_rank(tmp_path):
    job = films.job("film", **{**films.THREE_SEGMENTS, "num_inference_steps": 60, "height": 64, "width": 64})
    arguments = ["--workers", "2", "--ulysses", "2", "--keep-latents", "--device", "cpu"]
    running = films.start_render(films.manifest(tmp_path, [job]), "--output", str(tmp_path / "out"), *arguments)
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


def test_auto_degrees_keep_those_that_are_named_and_the_group_decodes_its_film(tmp_path):
    """By the cost model so small a film is decoded by one worker: the settings say that exchanges cost nothing."""
    job = films.job("film", **{**films.THREE_SEGMENTS, "height": 64, "width": 64})
    arguments = ["--workers", "2", "--cfg-parallel", "2", "--ulysses", "auto", "--keep-latents", "--device", "cpu"]
    free = {"RENDER_FARM_GROUP_EXCHANGE_S": "1e-12", "RENDER_FARM_GROUP_BYTES_PER_S": "1e18"}
    done = films.render(films.manifest(tmp_path, [job]), "--output", str(tmp_path / "out"), *arguments, **free)
    assert done.returncode == 0, done.stderr
    segments = films.document(tmp_path / "out", "film")["segments"]
    assert [segment["group_shape"] for segment in segments] == [[2, 1, 1]] * 3
    alone = load_engine("tiny", device="cpu").render(job).latents.numpy()
    assert np.abs(films.latents(tmp_path / "out", "film") - alone).max() <= 1e-4
    assert films.document(tmp_path / "out", "film")["num_frames"] == 53
