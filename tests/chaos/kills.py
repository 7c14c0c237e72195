"""Faults of processes: they die, are told to end, or freeze."""

from __future__ import annotations

import signal
import threading
import time

import psutil

from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import read_lease
from tests.chaos.processes import descendants, kill
from tests.chaos.scene import RUN_ID, Scene

WORKER = "ray::RenderWorker"
COORDINATOR = "ray::Coordinator"
TEXT_WORKER = "ray::TextWorker"
_GIVEN_BACK_WITHIN_S = 240


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


def freeze_encoder(scene: Scene) -> str:
    """For some seconds, or until it is ended for that."""
    found = scene.world.processes(f"{TEXT_WORKER}.encode")
    if not found:
        return ""
    time.sleep(scene.random.uniform(0, 3))
    process, seconds = found[0], scene.random.choice((*(scene.random.uniform(5, 60) for _ in range(2)), None))
    try:
        process.suspend()
    except psutil.NoSuchProcess:
        return ""
    scene.world.paused.append(process)
    if seconds is None:
        return f"SIGSTOP {TEXT_WORKER} {process.pid} for good"
    timer = threading.Timer(seconds, scene.world.thaw)
    timer.start()
    scene.later.append(timer.cancel)
    return f"SIGSTOP {TEXT_WORKER} {process.pid} for {seconds:.0f} s"


def kill_driver_early(scene: Scene) -> str:
    """Soon after its run was taken on: perhaps before the coordinator knows all films. Sometimes nobody starts it again
    until the run was given up or rendered."""
    if not scene.store.list(RunKeys(run_id=RUN_ID).leases):
        return ""
    time.sleep(scene.random.uniform(0, 1.5))
    if not kill_driver(scene):
        return ""
    if scene.random.random() < 0.5:
        return "SIGKILL driver soon"
    stop = time.monotonic() + _GIVEN_BACK_WITHIN_S
    while (lease := read_lease(scene.store, RUN_ID)) is None or not lease.released:
        if time.monotonic() > stop:
            raise AssertionError(f"{_GIVEN_BACK_WITHIN_S} s after its driver's death the run is held by {lease}")
        time.sleep(0.5)
    is_complete = scene.store.exists(RunKeys(run_id=RUN_ID).results)
    return f"SIGKILL driver soon; without it the run was {'rendered' if is_complete else 'given up'}"
