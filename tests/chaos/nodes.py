"""Faults of machines: the second node dies, is drained, or its Ray gets a SIGTERM. A fresh node comes each time."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.chaos.kills import WORKER
from tests.chaos.processes import command_of, kill
from tests.chaos.scene import Scene

_GOES_WITHIN_S = 120


def kill_node(scene: Scene) -> str:
    """With all that runs on it."""
    node = scene.world.nodes.pop()
    num_workers = sum(WORKER in command_of(process) for process in node.tree)
    for process in node.tree:
        kill(process)
    node.process.wait()
    scene.world.add_node()
    return f"SIGKILL node and its {num_workers} workers"


def drain_node(scene: Scene) -> str:
    """Ray is told that the node goes in some seconds, and then it goes."""
    world, node, seconds = scene.world, scene.world.nodes[-1], scene.random.uniform(4, 15)
    command = [sys.executable, "-m", "tests.chaos.drain", str(world.address), node.name, str(seconds)]
    told = subprocess.run(command, env={**world.environment, "RAY_AUTH_MODE": "token"}, capture_output=True, text=True)
    if told.returncode:
        raise AssertionError(f"the node was not drained: {told.stderr[-300:]}")
    time.sleep(seconds)
    return f"drained for {seconds:.0f} s, then {kill_node(scene)}"


def stop_node(scene: Scene) -> str:
    """SIGTERM of `ray start --block`, as a Pod gets it: Ray drains its node, and ends."""
    node, started = scene.world.nodes.pop(), time.monotonic()
    tree = node.tree
    node.process.terminate()
    try:
        node.process.wait(_GOES_WITHIN_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"`ray start --block` was there {_GOES_WITHIN_S} s after its SIGTERM") from None
    finally:
        for process in tree:
            kill(process)
        scene.world.add_node()
    return f"SIGTERM of the node's Ray, which went {time.monotonic() - started:.0f} s later"
