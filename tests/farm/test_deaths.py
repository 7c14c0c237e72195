"""Processes that end without a word of their own: killed by Ray's memory monitor, or under the driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.helpers import films
from tests.helpers.processes import children_named

MONITOR_ON = {"RAY_memory_monitor_refresh_ms": "100", "RAY_memory_usage_threshold": "0.001"}
"""Whatever this machine uses is too much."""


def test_a_worker_that_the_memory_monitor_kills_is_dead_and_no_gpu_was_full():
    told = subprocess.run(
        [sys.executable, "-m", "tests.farm.memory_monitor"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **MONITOR_ON},
    )
    assert told.returncode == 0, told.stderr
    first, second = json.loads(told.stdout.splitlines()[-1])
    assert first[:2] == second[:2] == ["worker", "HostMemoryError"]
    assert "its machine ran out of memory" in first[2]
    assert "device" not in first[2]


@pytest.mark.long
def test_a_private_ray_gets_another_coordinator_when_its_own_ends(tmp_path):
    slow = films.job("slow", **{**films.THREE_SEGMENTS, "num_inference_steps": 60})
    manifest = films.manifest(tmp_path, [slow])
    running = films.start_render(manifest, "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu")
    films.wait_for(lambda: films.num_segments_stored(tmp_path / "out") >= 1, what="a stored segment")
    [coordinator] = children_named(running.pid, "ray::Coordinator")
    os.kill(coordinator.pid, signal.SIGKILL)
    _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    films.assert_complete(tmp_path / "out", "slow", num_frames=53)


@pytest.mark.long
def test_a_private_ray_that_kills_every_coordinator_ends_resumable_and_says_why(tmp_path):
    manifest = films.manifest(tmp_path, [films.job("a")])
    done = films.render(manifest, "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu", **MONITOR_ON)
    assert done.returncode != 0
    assert "internal error" not in done.stderr
    assert "memory" in done.stderr
    assert "the same command again continues the run" in done.stderr


@pytest.mark.long
def test_a_frozen_text_encoder_is_ended_and_another_one_encodes(tmp_path):
    manifest = films.manifest(tmp_path, [films.job("a")])
    arguments = [manifest, "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    running = films.start_render(*arguments, RENDER_FARM_FIRST_STEP_FLOOR_S="60")
    films.wait_for(lambda: children_named(running.pid, "ray::TextWorker.encode"), what="the encoder's start")
    [encoder] = children_named(running.pid, "ray::TextWorker.encode")
    os.kill(encoder.pid, signal.SIGSTOP)
    _, errors = running.communicate(timeout=230)
    assert running.returncode == 0, errors
    assert "encoded no prompt for 60 s" in errors
    films.assert_complete(tmp_path / "out", "a")
