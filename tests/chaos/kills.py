"""Faults of processes: they die, are told to end, or freeze."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

from tests.chaos.processes import descendants, kill
from tests.chaos.scene import Scene

WORKER = "ray::RenderWorker"
COORDINATOR = "ray::Coordinator"
TEXT_WORKER = "ray::TextWorker"


def kill_one(scene: Scene, name: str) -> str:
    found = scene.world.processes(name)
    if not found:
        return ""
    process = scene.random.choice(found)
    kill(process)
    return f"SIGKILL {name} {process.pid}"


def kill_worker(scene: Scene) -> str:
    return kill_one(scene, WORKER)


def kill_coordinator(scene: Scene) -> str:
    return kill_one(scene, COORDINATOR)


def preempt_worker(scene: Scene) -> str:
    found = scene.world.processes(WORKER)
    if not found:
        return ""
    process = scene.random.choice(found)
    process.send_signal(signal.SIGTERM)
    return f"SIGTERM {process.pid}"


def kill_driver(scene: Scene) -> str:
    assert scene.world.driver is not None
    if scene.world.driver.poll() is not None:
        return ""
    scene.world.driver.kill()
    return "SIGKILL driver"


def kill_node(scene: Scene) -> str:
    """The second node and all that runs on it; a fresh node comes."""
    node = scene.world.nodes.pop()
    num_workers = sum(WORKER in " ".join(process.cmdline()) for process in node.tree if process.is_running())
    for process in node.tree:
        kill(process)
    node.process.wait()
    scene.world.add_node()
    return f"SIGKILL node and its {num_workers} workers"


def drain_node(scene: Scene) -> str:
    """Ray is told that the second node goes in some seconds; then it goes, and a fresh one comes."""
    world, node, seconds = scene.world, scene.world.nodes[-1], scene.random.uniform(4, 15)
    command = [sys.executable, "-m", "tests.chaos.drain", str(world.address), node.name, str(seconds)]
    told = subprocess.run(command, env={**world.environment, "RAY_AUTH_MODE": "token"}, capture_output=True, text=True)
    if told.returncode:
        raise AssertionError(f"the node was not drained: {told.stderr[-300:]}")
    time.sleep(seconds)
    return f"drained for {seconds:.0f} s, then {kill_node(scene)}"


def kill_everything(scene: Scene) -> str:
    """Driver, coordinator, workers, and with a private Ray that, too."""
    world = scene.world
    assert world.driver is not None
    for process in descendants(world.driver.pid):
        kill(process)
    if scene.address is not None:
        for name in (WORKER, COORDINATOR, TEXT_WORKER):
            for process in world.processes(name):
                kill(process)
    return f"SIGKILL everything{'' if scene.address else ', Ray too'}"


def freeze_worker(scene: Scene) -> str:
    """Past the lease and the hang watch, then it goes on."""
    found = scene.world.processes(WORKER)
    if not found:
        return ""
    process, seconds = scene.random.choice(found), scene.random.uniform(10, 30)
    process.suspend()
    scene.world.paused.append(process)
    timer = threading.Timer(seconds, scene.world.thaw)
    timer.start()
    scene.later.append(timer.cancel)
    return f"SIGSTOP {process.pid} for {seconds:.0f} s"


def second_coordinator(scene: Scene) -> str:
    """A second driver with a Ray of its own on the same run: it is told who holds it, or comes when all is done."""
    world = scene.world
    second = world.start_driver(scene.manifest, scene.output, options=(), address=None)
    stop = time.monotonic() + 400
    while second.poll() is None and time.monotonic() < stop:
        time.sleep(0.2)
    for process in descendants(second.pid) if second.poll() is None else []:
        kill(process)
    if second.poll() not in (0, 2):
        raise AssertionError(f"the second coordinator ended with exit code {second.poll()}")
    return f"a second coordinator ended with exit code {second.poll()}"
