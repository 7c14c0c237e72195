"""The faults, a letter each as in the records. A fault strikes once; a run that ends by it is started again by the same
command, as a person or a scheduler would."""

from __future__ import annotations

import time

from tests.chaos import kills, nodes, rivals, surroundings
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
    Fault(letter="e", text="SIGKILL a node", strike=nodes.kill_node, kills=2),
    Fault(letter="f", text="SIGKILL everything", strike=kills.kill_everything, kills=2),
    Fault(letter="F", text="SIGKILL everything, Ray too", strike=kills.kill_everything, kills=2, private=True),
    Fault(letter="g", text="a bad hour of S3", strike=surroundings.storm),
    Fault(letter="h", text="a full local disk", strike=surroundings.fill_disk),
    Fault(letter="i", text="a flipped bit in a checkpoint", strike=surroundings.flip_bytes, kills=2),
    Fault(letter="j", text="two coordinators", strike=rivals.second_coordinator),
    Fault(
        letter="k",
        text="a frozen worker",
        strike=kills.freeze_worker,
        kills=1,
        settings={"RENDER_FARM_HANG_FLOOR_S": "10"},
    ),
    Fault(
        letter="l",
        text="the clock set back",
        strike=surroundings.set_clock_back,
        place=Place.PRIVATE_WITH_A_CLOCK,
    ),
    Fault(
        letter="m",
        text="Ray's memory monitor kills",
        strike=surroundings.fill_memory,
        kills=2,
        place=Place.TWO_NODES_WITH_MEMORY,
    ),
    Fault(letter="n", text="a node that is drained, and goes", strike=nodes.drain_node, kills=2, counts=False),
    Fault(letter="o", text="SIGKILL the driver early", strike=kills.kill_driver_early, is_early=True, is_slow=True),
    Fault(letter="p", text="SIGTERM a worker (preemption)", strike=kills.preempt_worker, kills=1, counts=False),
    Fault(letter="q", text="the coordinator frozen, and thawed", strike=rivals.freeze_coordinator, kills=2),
    Fault(
        letter="r",
        text="two runs of equal rows, slow store",
        strike=rivals.second_run,
        kills=9,  # those of different Rays do not wait for each other
        is_early=True,
        is_slow=True,
    ),
    Fault(
        letter="s",
        text="the encoder frozen",
        strike=kills.freeze_encoder,
        is_early=True,
        encodes=True,
        settings={"RENDER_FARM_FIRST_STEP_FLOOR_S": "150"},
    ),
    Fault(letter="t", text="cancelled, and put back", strike=rivals.cancel_and_retry, kills=9, is_early=True),
    Fault(
        letter="u",
        text="a full disk on one node",
        strike=surroundings.fill_one_disk,
        settings={"RENDER_FARM_HOST_FAULTS": "3"},
    ),
    Fault(letter="v", text="expired credentials", strike=surroundings.expire),
    Fault(letter="w", text="SIGTERM of `ray start --block`", strike=nodes.stop_node, kills=2, counts=False),
    Fault(letter="x", text="NaN computed once", strike=surroundings.compute_nan, kills=1),
    Fault(letter="y", text="a model that computes NaN", strike=surroundings.nothing, is_early=True, is_broken=True),
)
SHORT = Fault(
    letter="short", text="SIGKILL a worker in a storm of S3", strike=surroundings.storm_and_kill, kills=1, private=True
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
