"""Faults of what the farm stands on: the object store, the disk, the clock, the bits."""

from __future__ import annotations

import random
import threading

from render_farm.storage.layout import SEGMENTS
from tests.chaos.kills import kill_worker
from tests.chaos.scene import Scene


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
    """The disk of temporary files has no byte left for a while."""
    seconds = scene.random.uniform(3, 15)
    scene.world.fill_disk()
    _after(scene, seconds, scene.world.empty_disk)
    return f"disk full for {seconds:.0f} s"


def set_clock_back(scene: Scene) -> str:
    """The wall clock of every process of the farm, Ray's too: by seconds, or by hours."""
    seconds = scene.random.choice((30, 600, 7200, 86400))
    scene.world.set_clock(-seconds)
    return f"clock set back by {seconds} s"


def _after(scene: Scene, seconds: float, then: object) -> None:
    timer = threading.Timer(seconds, then)  # type: ignore[arg-type]
    timer.start()
    scene.later.append(timer.cancel)
