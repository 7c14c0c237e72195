"""The faults, a letter each as in the records. A fault strikes once; a run that ends by it is started again by the same
command, as a person or a scheduler would."""

from __future__ import annotations

import time

from tests.chaos import kills, surroundings
from tests.chaos.scene import Fault, Scene
from tests.chaos.world import Place

FAULTS = (
    Fault(letter="a", text="SIGKILL a worker", strike=kills.kill_worker, kills=1),
    Fault(
        letter="b",
        text="SIGKILL a rank of a render group",
        strike=kills.kill_worker,
        kills=1,
        place=Place.ONE_NODE,
        options=("--ulysses", "2"),
        film={"height": 64, "width": 64, "num_inference_steps": 20},
    ),
    Fault(letter="c", text="SIGKILL the coordinator", strike=kills.kill_coordinator, kills=2),
    Fault(letter="d", text="SIGKILL the driver", strike=kills.kill_driver),
    Fault(letter="e", text="SIGKILL a node", strike=kills.kill_node, kills=2),
    Fault(letter="f", text="SIGKILL everything", strike=kills.kill_everything, kills=2),
    Fault(letter="F", text="SIGKILL everything, Ray too", strike=kills.kill_everything, kills=2, private=True),
    Fault(letter="g", text="a bad hour of S3", strike=surroundings.storm),
    Fault(letter="h", text="a full local disk", strike=surroundings.fill_disk),
    Fault(letter="i", text="a flipped bit in a checkpoint", strike=surroundings.flip_bytes, kills=2),
    Fault(letter="j", text="two coordinators", strike=kills.second_coordinator),
    Fault(letter="k", text="a frozen worker", strike=kills.freeze_worker, kills=1),
    Fault(
        letter="l",
        text="the clock set back",
        strike=surroundings.set_clock_back,
        place=Place.PRIVATE_WITH_A_CLOCK,
    ),
    Fault(letter="n", text="a node that is drained, and goes", strike=kills.drain_node, kills=2, counts=False),
    Fault(letter="p", text="SIGTERM a worker (preemption)", strike=kills.preempt_worker, kills=1, counts=False),
)
SHORT = Fault(
    letter="s", text="SIGKILL a worker in a storm of S3", strike=surroundings.storm_and_kill, kills=1, private=True
)
BY_LETTER = {fault.letter: fault for fault in FAULTS}


def strike_when_possible(fault: Fault, scene: Scene, *, within_s: float) -> str:
    """Strike, again every now and then while there is nothing to strike yet. Empty when the run is over before."""
    stop = time.monotonic() + within_s
    while time.monotonic() < stop and scene.world.driver is not None and scene.world.driver.poll() is None:
        if told := fault.strike(scene):
            return told
        time.sleep(0.3)
    return ""
