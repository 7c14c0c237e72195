"""Faults of what the farm stands on: the object store, disks, memory, the clock, the bits."""

from __future__ import annotations

import random
import threading
import time

from render_farm.storage.layout import SEGMENTS
from tests.chaos.kills import COORDINATOR, WORKER, kill_worker
from tests.chaos.nodes import kill_node
from tests.chaos.scene import Scene

_MEMORY_FULL_S = 60


def storm(scene: Scene) -> str:
    """A fifth of all requests refused, others slow or cut, for a while; or a minute of nothing."""
    proxy, seconds = scene.world.proxy, scene.random.uniform(20, 60)
    if scene.random.random() < 0.3:
        proxy.speak.clear()
        _after(scene, 60, proxy.speak.set)
        return "S3 silent for 60 s"
    _storm(scene, seconds)
    return f"S3 storm for {seconds:.0f} s"


def storm_and_kill(scene: Scene) -> str:
    """A worker dies while the store fails: the short version's fault."""
    _storm(scene, 8)
    return kill_worker(scene)


def _storm(scene: Scene, seconds: float) -> None:
    proxy = scene.world.proxy
    proxy.storm = random.Random(scene.random.random())

    def calm() -> None:
        proxy.storm = None

    _after(scene, seconds, calm)


def flip_bytes(scene: Scene) -> str:
    """In a stored segment, and then its film's worker dies, so that it is read again."""
    keys = [key for key in scene.store.list(SEGMENTS) if key.endswith(".safetensors")]
    if not keys:
        return ""
    key = scene.random.choice(keys)
    data = bytearray(scene.store.read_bytes(key))
    at = scene.random.randrange(len(data))
    data[at] ^= 1 << scene.random.randrange(8)
    scene.store.write_bytes(key, bytes(data))
    return f"flipped a bit of {key}; {kill_worker(scene)}"


def fill_disk(scene: Scene) -> str:
    """The disks of temporary files have no byte left for a while."""
    seconds = scene.random.uniform(3, 15)
    scene.world.fill_disks()
    _after(scene, seconds, scene.world.empty_disks)
    return f"disk full for {seconds:.0f} s"


def fill_one_disk(scene: Scene) -> str:
    """That of the second node, until the run is over. Then the node goes, and the quarantine of its name with it."""
    scene.world.fill_disks(1)
    name = scene.world.nodes[-1].name
    scene.last.append(lambda: kill_node(scene))
    return f"the disk of {name} full for good"


def expire(scene: Scene) -> str:
    """The store takes nobody's credentials, until somebody renews them."""
    proxy, seconds = scene.world.proxy, scene.random.uniform(5, 40)

    def renew() -> None:
        proxy.is_expired = False

    proxy.is_expired = True
    _after(scene, seconds, renew)
    return f"credentials expired for {seconds:.0f} s"


def fill_memory(scene: Scene) -> str:
    """The machine's memory is full until Ray has ended a process of the farm."""
    world = scene.world
    before = {process.pid: name for name in (WORKER, COORDINATOR) for process in world.processes(name)}
    if not any(name == WORKER for name in before.values()):
        return ""
    stop = time.monotonic() + _MEMORY_FULL_S
    world.set_memory(full=True)
    try:
        while time.monotonic() < stop:
            present = {process.pid for name in (WORKER, COORDINATOR) for process in world.processes(name)}
            if ended := before.keys() - present:
                return f"memory full: Ray ended {', '.join(sorted(before[pid] for pid in ended))}"
            time.sleep(0.02)
    finally:
        world.set_memory(full=False)
    raise AssertionError(f"Ray's memory monitor ended nobody within {_MEMORY_FULL_S} s")


def compute_nan(scene: Scene) -> str:
    """In the next window that a worker completes (`preload/sitecustomize.py`)."""
    world = scene.world
    assert world.driver is not None
    world.nan.touch()
    while world.nan.exists():
        if world.driver.poll() is not None:
            world.nan.unlink(missing_ok=True)
            return ""
        time.sleep(0.1)
    return "a worker computed NaN once"


def nothing(scene: Scene) -> str:
    """What is wrong is wrong from the start."""
    return "the model of a film computes NaN"


def set_clock_back(scene: Scene) -> str:
    """The wall clock of every process of the farm, Ray's too: by seconds, or by hours."""
    seconds = scene.random.choice((30, 600, 7200, 86400))
    scene.world.set_clock(-seconds)
    return f"clock set back by {seconds} s"


def _after(scene: Scene, seconds: float, then: object) -> None:
    timer = threading.Timer(seconds, then)  # type: ignore[arg-type]
    timer.start()
    scene.later.append(timer.cancel)
