"""Runs on a real local Ray: what they leave, what they do not do twice, and what a kill costs."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime

import numpy as np
import pytest

from render_farm import load_engine
from render_farm.farm.driver.render_run import render_run
from render_farm.farm.run.request import RunRequest
from tests.helpers import films


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One run of four films on two workers: a good one, a long one, a refused row and one for another model."""
    folder = tmp_path_factory.mktemp("undisturbed")
    jobs = [
        films.job("a", tags={"k": "v"}, owner="me"),
        films.job("b", prompt=["a blue square", "a green square"], **films.THREE_SEGMENTS),
        films.job("c", causal_block_size=5),
        films.job("d", model=str(folder / "no-model")),
    ]
    snapshots = []
    request = RunRequest(
        manifest=films.manifest(folder, jobs),
        output=str(folder / "out"),
        num_workers=2,
        keep_latents=True,
        device="cpu",
    )
    outcome = render_run(request, on_snapshot=snapshots.append)
    return folder / "out", outcome, snapshots, jobs


def test_good_films_are_done_and_bad_rows_fail_alone(undisturbed):
    output, outcome, snapshots, _ = undisturbed
    assert outcome.jobs == {"done": 2, "failed": 2}
    assert (outcome.exit_code, outcome.state) == (11, "failed")
    films.assert_complete(output, "a")
    films.assert_complete(output, "b", num_frames=53)
    rows = films.results(output)
    assert rows["c"]["state"] == "failed"
    assert rows["c"]["message"].startswith("row 3 (job_id=c): causal_block_size: 5 does not divide window 0")
    assert rows["c"]["error_class"] == "InvalidJobError"
    assert rows["d"]["error_class"] == "ModelError"
    assert "no-model" in rows["d"]["message"]
    assert not (output / "c").exists()
    assert snapshots[-1].jobs == {"done": 2, "failed": 2}
    assert max(snapshot.segments_done for snapshot in snapshots) == 5


def test_what_is_said_of_a_film(undisturbed):
    output, *_ = undisturbed
    row, document = films.results(output)["b"], films.document(output, "b")
    assert (row["segments"], row["frames"], row["attempts"], row["state"]) == (3, 53, 1, "done")
    assert row["sha256"] == document["sha256"]
    assert row["uri"].endswith("b/video.mp4")
    assert row["gpu_s"] > 0
    assert row["seam_score"] == document["seam_score"] > 0
    assert row["started_at"] <= row["finished_at"] <= datetime.now(UTC)
    assert document["segment_prompts"] == ["a blue square", "a green square", "a green square"]
    assert [segment["index"] for segment in document["segments"]] == [0, 1, 2]
    assert all(segment["group_shape"] == [1, 1, 1] for segment in document["segments"])
    assert document["parameters"]["num_inference_steps"] == 2
    assert document["software"]["diffusers"]
    assert len(document["model"]["fingerprint"]) >= 12


def test_the_farms_latents_are_the_engines(undisturbed):
    output, _, _, jobs = undisturbed
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine = load_engine("tiny", device="cpu")
        for name, job in (("a", jobs[0]), ("b", jobs[1])):
            assert np.array_equal(films.latents(output, name), engine.render(job).latents.numpy())
    finally:
        torch.set_num_threads(threads)


def test_the_run_keeps_its_manifest_and_logs(undisturbed):
    output, outcome, *_ = undisturbed
    run = output / "_runs" / outcome.run_id
    assert (run / "manifest.parquet").exists()
    lines = [json.loads(line) for path in sorted((run / "logs").glob("*.jsonl")) for line in path.open()]
    assert any(line["job_id"] == "a" and line["message"].startswith("done") for line in lines)
    assert json.loads((run / "run.json").read_text())["num_jobs"] == 4


def test_the_same_command_again_renders_nothing_and_a_changed_row_anew(undisturbed):
    output, _, _, jobs = undisturbed
    before = {name: (output / name / "video.mp4").stat().st_mtime_ns for name in "ab"}
    short = [films.job(f"film-{i}", num_frames=21, num_inference_steps=1) for i in range(8)]
    changed = [films.job("a", seed=99), jobs[1], *short]
    again = render_run(
        RunRequest(
            manifest=films.manifest(output.parent, changed, "changed.parquet"),
            output=str(output),
            num_workers=1,
            keep_latents=True,
            device="cpu",
            replace=True,  # it is another manifest
        ),
        on_snapshot=lambda snapshot: None,
    )
    assert (again.jobs, again.exit_code) == ({"done": 10}, 0)
    rows = films.results(output, again.run_id)
    # One worker, which decodes slower than it denoises: films wait to be finished, and none is dropped meanwhile.
    assert {rows[job.job_id]["attempts"] for job in short} == {1}
    assert (output / "b" / "video.mp4").stat().st_mtime_ns == before["b"]
    assert (output / "a" / "video.mp4").stat().st_mtime_ns != before["a"]
    assert films.document(output, "a")["parameters"]["seed"] == 99
    films.assert_complete(output, "a")
    same = render_run(
        RunRequest(manifest=str(output.parent / "changed.parquet"), output=str(output), keep_latents=True),
        on_snapshot=lambda snapshot: None,
    )
    assert (same.jobs, same.exit_code, same.run_id) == ({"done": 10}, 0, again.run_id)


@pytest.mark.long
def test_a_killed_driver_loses_no_finished_segment_and_the_latents_are_the_same(undisturbed, tmp_path):
    output, _, _, jobs = undisturbed
    manifest = films.manifest(tmp_path, [jobs[1]])
    arguments = [manifest, "--output", str(tmp_path / "out"), "--workers", "2", "--keep-latents", "--device", "cpu"]
    running = films.start_render(*arguments)
    films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 1, what="a stored segment")
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    finished = films.num_segments_stored(tmp_path / "out")
    done = films.render(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["jobs"] == {"done": 1}
    assert sorted(report) == ["exit_code", "jobs", "output", "run_id", "schema", "state"]
    assert np.array_equal(films.latents(tmp_path / "out", "b"), films.latents(output, "b"))
    workers = [segment["attempt"] for segment in films.document(tmp_path / "out", "b")["segments"]]
    assert len(workers) == 3
    assert 1 <= finished <= 3


def test_interrupted_it_exits_130_and_the_same_command_continues(tmp_path):
    slow = films.job("slow", **{**films.MANY_SEGMENTS, "num_frames": 117, "num_inference_steps": 20, "seed": 5})
    manifest = films.manifest(tmp_path, [slow])
    arguments = [manifest, "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    running = films.start_render(*arguments)
    films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 1, what="a stored segment")
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert len(list((tmp_path / "out").glob("_work/*/steps/*"))) <= 1  # none where the signal came between segments
    assert films.results(tmp_path / "out")["slow"]["state"] == "cancelled"
    assert not (tmp_path / "out" / "slow").exists()
    stored = [path.name for path in films.latents_stored(tmp_path / "out")]
    done = films.render(*arguments)
    assert done.returncode == 0, done.stderr
    films.assert_complete(tmp_path / "out", "slow", num_frames=117)
    assert stored[0] in [path.name for path in films.latents_stored(tmp_path / "out")]
    names = [segment["key"].rpartition("/")[2] for segment in films.document(tmp_path / "out", "slow")["segments"]]
    assert names[: len(stored)] == stored


def test_terminated_while_it_starts_it_exits_130_without_a_traceback(tmp_path):
    manifest = films.manifest(tmp_path, [films.job("a", **{**films.MANY_SEGMENTS, "num_inference_steps": 100})])
    arguments = [manifest, "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    running = films.start_render(*arguments)
    films.wait_for(lambda: list((tmp_path / "out").glob("_runs/*/lease/*.json")), what="the lease")
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
