"""Attaching to a Ray cluster that was there before and stays afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from PIL import Image

from render_farm.tiny import MODEL_DIR
from tests.helpers import films
from tests.helpers.processes import children_named
from tests.helpers.ray_head import ray_command
from tests.helpers.receiver import receiver


@pytest.mark.long
def test_a_group_and_a_single_worker_on_a_running_cluster(ray_head, tmp_path):
    """One after the other: the second run wants workers of another shape."""
    arguments = [
        "--output",
        str(tmp_path / "out"),
        "--address",
        ray_head.address,
        "--device",
        "cpu",
        "--json",
        "--workers",
    ]
    manifest = films.manifest(tmp_path, [films.job("a", width=64, ulysses=2)], "one.parquet")
    stranger = subprocess.Popen(
        films.command("render", manifest, *arguments, "2"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
    )
    first = films.render(manifest, *arguments, "2")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["jobs"] == {"done": 1}
    segments = films.document(tmp_path / "out", "a")["segments"]
    assert [segment["group_shape"] for segment in segments] == [[1, 2, 1]] * 2
    Image.new("RGB", (40, 40), "red").save(tmp_path / "first.png")
    lora = MODEL_DIR.parent / "loras" / "outlined.safetensors"
    inputs = ["--image", str(tmp_path / "first.png"), "--lora", f"{lora}=0.5"]
    size = ["--num-frames", "5", "--height", "32", "--width", "32", "--steps", "1"]
    second = films.render("--prompt", "a red circle", *size, *inputs, *arguments, "1")
    assert second.returncode == 0, second.stderr
    films.assert_complete(tmp_path / "out", "a", width=64)
    [name] = [path.name for path in (tmp_path / "out").glob("a-red-circle*")]
    films.assert_complete(tmp_path / "out", name, num_frames=5)
    assert films.document(tmp_path / "out", name)["parameters"]["loras"][0]["weight"] == 0.5
    assert ray_command("status", f"--address={ray_head.address}").returncode == 0
    _, errors = stranger.communicate(timeout=120)
    assert stranger.returncode == 2, errors
    assert "where the cluster asks for a token" in errors


def test_a_command_waits_for_a_coordinator_that_ray_starts_anew(ray_head, tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "tests.farm.dying_coordinator", ray_head.address, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "RAY_AUTH_MODE": "token"},
    )
    assert told.returncode == 0, told.stderr
    last = told.stdout.splitlines()[-1]  # Ray says before it that a worker died
    assert json.loads(last) == {"num_lives": 3, "is_added": True, "given_up": "the coordinator ended"}


@pytest.mark.long
def test_a_run_whose_driver_is_killed_is_told_of_by_its_coordinator_and_a_cancel_frees_every_worker(ray_head, tmp_path):
    slow = films.job("slow", **{**films.THREE_SEGMENTS, "num_inference_steps": 100})
    endless = films.job("endless", **{**films.MANY_SEGMENTS, "num_inference_steps": 300})
    arguments = ["--output", str(tmp_path / "out"), "--address", ray_head.address, "--device", "cpu", "--workers", "1"]
    with receiver() as server:
        hook = {"RENDER_FARM_NOTIFY_WEBHOOK_URL": server.url}
        first = films.start_render(
            films.manifest(tmp_path, [slow], "one.parquet"), *arguments, "--run-id", "one", **hook
        )
        films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 1, what="a stored segment")
        first.kill()
        first.communicate()
        films.wait_for(lambda: server.taken, what="a notice")
    (text,) = (json.loads(body)["text"] for _, body in server.taken)
    assert text.startswith("Run one ended: 1 of 1 films are done."), "what was found in its pictures may follow"
    page = (tmp_path / "out" / "_runs" / "one" / "report.html").read_text()
    assert '"state":"done"' in page.replace(" ", "")

    second = films.start_render(films.manifest(tmp_path, [endless], "two.parquet"), *arguments, "--run-id", "two")
    films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 5, what="a stored segment")
    assert workers_up()
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 130, errors
    films.wait_for(lambda: not workers_up(), timeout_s=30, what="the end of the worker")


def workers_up() -> list[psutil.Process]:
    """Of the cluster of this process."""
    heads = [each for each in psutil.Process().children(recursive=True) if "raylet" in each.name()]
    assert heads
    return [worker for head in heads for worker in children_named(head.pid, "ray::RenderWorker")]


def test_an_address_without_a_cluster_is_exit_code_2(tmp_path):
    manifest = films.manifest(tmp_path, [films.job("a")])
    done = films.render(manifest, "--output", str(tmp_path / "out"), "--address", "127.0.0.1:1")
    assert done.returncode == 2, done.stderr
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
