"""The faults, a letter each as in the records. A fault strikes once; a run that ends by it is started again by the same
command, as a person or a scheduler would."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from render_farm.storage import open_store
from render_farm.storage.store import Store
from tests.chaos.world import World, descendants, kill


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a fault may need to know."""

    world: World
    random: random.Random
    store: Store
    """Of the run's output, past the proxy."""
    manifest: str
    output: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of trouble."""

    letter: str
    text: str
    strike: Callable[[Scene], str]
    """Does it and says what it did; empty when there was nothing to strike."""
    needs_cluster: bool = False


def _kill_one(scene: Scene, name: str) -> str:
    found = scene.world.processes(name)
    if not found:
        return ""
    process = scene.random.choice(found)
    kill(process)
    return f"SIGKILL {name} {process.pid}"


def kill_worker(scene: Scene) -> str:
    return _kill_one(scene, "ray::RenderWorker")


def preempt_worker(scene: Scene) -> str:
    found = scene.world.processes("ray::RenderWorker")
    if not found:
        return ""
    process = scene.random.choice(found)
    process.send_signal(signal.SIGTERM)
    return f"SIGTERM {process.pid}"


def kill_coordinator(scene: Scene) -> str:
    return _kill_one(scene, "ray::Coordinator")


def kill_driver(scene: Scene) -> str:
    assert scene.world.driver is not None
    scene.world.driver.kill()
    return "SIGKILL driver"


def kill_raylet(scene: Scene) -> str:
    """The second node and all that runs on it; a fresh node comes."""
    node = scene.world.nodes.pop()
    for process in node.tree:
        kill(process)
    node.process.wait()
    scene.world.add_node()
    return "SIGKILL node and its workers"


def kill_everything(scene: Scene) -> str:
    """Driver, coordinator, workers, and with a private Ray that, too."""
    world = scene.world
    assert world.driver is not None
    for process in descendants(world.driver.pid):
        kill(process)
    for name in ("ray::RenderWorker", "ray::Coordinator", "ray::TextWorker"):
        for process in world.processes(name):
            kill(process)
    return "SIGKILL everything"


def storm(scene: Scene) -> str:
    """A fifth of all requests refused, others slow or cut, for a while; or a minute of nothing."""
    proxy, seconds = scene.world.proxy, scene.random.uniform(20, 60)
    if scene.random.random() < 0.3:
        proxy.speak.clear()
        threading.Timer(60, proxy.speak.set).start()
        return "S3 silent for 60 s"
    proxy.storm = random.Random(scene.random.random())

    def calm() -> None:
        proxy.storm = None

    threading.Timer(seconds, calm).start()
    return f"S3 storm for {seconds:.0f} s"


def flip_bytes(scene: Scene) -> str:
    """In a stored segment, and then its film's worker dies, so that it is read again."""
    keys = [key for key in scene.store.list("_work") if "/segments/" in key]
    if not keys:
        return ""
    key = scene.random.choice(keys)
    data = bytearray(scene.store.read_bytes(key))
    at = scene.random.randrange(len(data))
    data[at] ^= 1 << scene.random.randrange(8)
    scene.store.write_bytes(key, bytes(data))
    return f"flipped a bit of {key}; {_kill_one(scene, 'ray::RenderWorker')}"


def two_coordinators(scene: Scene) -> str:
    """A second driver with a Ray of its own on the same run: it is told who holds it."""
    second = scene.world.start_driver(scene.manifest, scene.output, address="local")
    _, _ = second.communicate(timeout=400)
    return f"a second coordinator ended with exit code {second.returncode}"


def freeze_worker(scene: Scene) -> str:
    """Past the lease and the hang watch, then it goes on."""
    found = scene.world.processes("ray::RenderWorker")
    if not found:
        return ""
    process = scene.random.choice(found)
    process.suspend()
    scene.world.paused.append(process)
    threading.Timer(scene.random.uniform(10, 30), scene.world.thaw).start()
    return f"SIGSTOP {process.pid}"


def storm_and_kill(scene: Scene) -> str:
    """A worker dies while the store fails: the short version's fault."""
    proxy = scene.world.proxy
    proxy.storm = random.Random(scene.random.random())

    def calm() -> None:
        proxy.storm = None

    threading.Timer(8, calm).start()
    return kill_worker(scene)


FAULTS = (
    Fault(letter="a", text="SIGKILL a worker", strike=kill_worker),
    Fault(letter="c", text="SIGKILL the coordinator", strike=kill_coordinator),
    Fault(letter="d", text="SIGKILL the driver", strike=kill_driver),
    Fault(letter="e", text="SIGKILL a node", strike=kill_raylet, needs_cluster=True),
    Fault(letter="f", text="SIGKILL everything", strike=kill_everything),
    Fault(letter="g", text="a bad hour of S3", strike=storm),
    Fault(letter="i", text="a flipped bit in a checkpoint", strike=flip_bytes),
    Fault(letter="j", text="two coordinators", strike=two_coordinators),
    Fault(letter="k", text="a frozen worker", strike=freeze_worker),
    Fault(letter="p", text="SIGTERM a worker (preemption)", strike=preempt_worker),
)
SHORT = Fault(letter="s", text="SIGKILL a worker in a storm of S3", strike=storm_and_kill)
BY_LETTER = {fault.letter: fault for fault in FAULTS}


def scene_of(world: World, seed: int, manifest: str, output: str) -> Scene:
    """A scene whose store is looked at past the proxy (the environment of this process points at the server)."""
    return Scene(world=world, random=random.Random(seed), store=open_store(output), manifest=manifest, output=output)


def strike_when_possible(fault: Fault, scene: Scene, *, within_s: float) -> str:
    """Strike, again every half second while there is nothing to strike yet."""
    stop = time.monotonic() + within_s
    while time.monotonic() < stop:
        if told := fault.strike(scene):
            return told
        time.sleep(0.5)
    return ""
