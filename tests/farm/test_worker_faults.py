"""Workers that die, models that break, stores that fill: the run goes on or says why."""

from __future__ import annotations

import os
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.farm.driver.render_run import render_run
from render_farm.farm.run.request import RunRequest
from render_farm.observability.events import EventKind
from tests.helpers import films
from tests.helpers.processes import children_named


@pytest.mark.long
def test_a_killed_worker_costs_one_segment_at_most(tmp_path):
    slow = films.job("slow", **{**films.THREE_SEGMENTS, "num_inference_steps": 60})
    arguments = ["--workers", "1", "--keep-latents", "--device", "cpu"]
    manifest = films.manifest(tmp_path, [slow])
    running = films.start_render(manifest, "--output", str(tmp_path / "out"), *arguments)
    films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 1, what="a stored segment")
    first = films.latents_stored(tmp_path / "out")[0].name
    [worker] = children_named(running.pid, "ray::RenderWorker")
    os.kill(worker.pid, signal.SIGKILL)
    _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    films.assert_complete(tmp_path / "out", "slow", num_frames=53)
    assert films.results(tmp_path / "out")["slow"]["attempts"] == 2
    assert [line.worker for line in films.events(tmp_path / "out", EventKind.WORKER_UP)] == ["worker-0.1", "worker-0.2"]
    assert [line.worker for line in films.events(tmp_path / "out", EventKind.WORKER_ENDED)] == ["worker-0.1"]
    assert films.document(tmp_path / "out", "slow")["segments"][0]["key"].endswith(first)
    undisturbed = render_run(
        RunRequest(manifest=manifest, output=str(tmp_path / "calm"), num_workers=1, keep_latents=True, device="cpu"),
        on_snapshot=lambda snapshot: None,
    )
    assert undisturbed.exit_code == 0
    assert np.array_equal(films.latents(tmp_path / "out", "slow"), films.latents(tmp_path / "calm", "slow"))


@pytest.mark.long
def test_a_damaged_checkpoint_is_found_and_rendered_again(tmp_path):
    slow = films.job("slow", **{**films.THREE_SEGMENTS, "num_inference_steps": 60})
    manifest = films.manifest(tmp_path, [slow])
    arguments = [manifest, "--output", str(tmp_path / "out"), "--workers", "1", "--keep-latents", "--device", "cpu"]
    running = films.start_render(*arguments)
    films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 1, what="a stored segment")
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    segment = films.latents_stored(tmp_path / "out")[0]
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    segment.write_bytes(damaged)
    done = films.render(*arguments)
    assert done.returncode == 0, done.stderr
    films.assert_complete(tmp_path / "out", "slow", num_frames=53)
    assert not films.document(tmp_path / "out", "slow")["segments"][0]["key"].endswith(segment.name)


@pytest.mark.long
def test_two_drivers_on_one_run_the_second_is_told_who_holds_it(tmp_path):
    slow = films.job("slow", **{**films.MANY_SEGMENTS, "num_frames": 3221, "num_inference_steps": 100})
    manifest = films.manifest(tmp_path, [slow])
    arguments = [manifest, "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    running = films.start_render(*arguments)
    films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 1, what="a stored segment")
    second = films.render(*arguments)
    assert second.returncode == 2
    assert "is held by process" in second.stderr
    assert "Traceback" not in second.stderr
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)


@pytest.mark.parametrize("output", ["memory://somewhere", "/proc/nowhere/out"])
def test_an_output_that_cannot_work_is_exit_code_2(tmp_path, output):
    done = films.render(films.manifest(tmp_path, [films.job("a")]), "--output", output)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip()) > 20


@pytest.mark.long
def test_a_time_limit_ends_the_run_with_13_and_what_is_stored_stays(tmp_path):
    manifest = films.manifest(tmp_path, [films.job("slow", **{**films.MANY_SEGMENTS, "num_inference_steps": 100})])
    arguments = [manifest, "--output", str(tmp_path / "out"), "--device", "cpu"]
    done = films.render(*arguments, "--timeout", "25")
    assert done.returncode == 13, done.stderr
    assert films.results(tmp_path / "out")["slow"]["state"] == "cancelled"
    assert "time limit" in films.results(tmp_path / "out")["slow"]["message"]


def test_strict_refuses_a_manifest_with_a_bad_row_before_anything_starts(tmp_path):
    bad = films.manifest(tmp_path, [films.job("a")])
    table = pq.read_table(bad)
    column = pa.array([0], pa.int64())
    pq.write_table(table.set_column(table.column_names.index("num_frames"), "num_frames", column), bad)
    done = films.render(bad, "--output", str(tmp_path / "out"), "--strict")
    assert done.returncode == 2
    assert "row 1 (job_id=a): num_frames: 0 is less than 1" in done.stderr
    assert not (tmp_path / "out").exists()
    lenient = films.render(bad, "--output", str(tmp_path / "out"))
    assert lenient.returncode == 10
    assert films.results(tmp_path / "out")["a"]["message"] == "row 1 (job_id=a): num_frames: 0 is less than 1"
