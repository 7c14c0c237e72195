"""Faults of several that want the same run, or the same films: other commands, and people who cancel."""

from __future__ import annotations

import time

from render_farm.errors import RenderFarmError
from render_farm.farm.control.client import ask
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import read_lease
from render_farm.storage.mailbox import Request, Verb
from tests.chaos.drivers import Driver
from tests.chaos.kills import COORDINATOR
from tests.chaos.processes import descendants, kill
from tests.chaos.scene import RUN_ID, Scene

SECOND_RUN = "rival"
_WITHIN_S = 400
_ANSWER_WITHIN_S = 60


def second_coordinator(scene: Scene) -> str:
    """A second driver with a Ray of its own on the same run: it is told who holds it, or comes when all is done."""
    code = _end(_start(scene, RUN_ID, address=None))
    if code not in (0, 2):
        raise AssertionError(f"the second coordinator ended with exit code {code}")
    return f"a second coordinator ended with exit code {code}"


def freeze_coordinator(scene: Scene) -> str:
    """Another command takes the run over while the coordinator is frozen. That one is thawed during that, or later."""
    world = scene.world
    found = world.processes(COORDINATOR)
    before = read_lease(scene.store, RUN_ID)
    if not found or before is None or before.released:
        return ""
    found[0].suspend()
    world.paused.append(found[0])
    taker = _start(scene, RUN_ID, address=None)
    seconds = scene.random.choice((scene.random.uniform(0, 15), None))
    while taker.poll() is None and (lease := read_lease(scene.store, RUN_ID)) and lease.holder == before.holder:
        time.sleep(0.2)
    if seconds is not None:
        time.sleep(seconds)
        world.thaw()
    code = _end(taker)
    if seconds is None:
        time.sleep(scene.random.uniform(0, 3))
        world.thaw()
    if code != 0:
        raise AssertionError(f"the coordinator that took over ended with exit code {code}")
    when = "after the other's end" if seconds is None else f"{seconds:.0f} s after the other took over"
    return f"SIGSTOP {COORDINATOR} {found[0].pid}, thawed {when}"


def second_run(scene: Scene) -> str:
    """A run of equal rows at the same time, on the same Ray or on one of its own."""
    time.sleep(scene.random.uniform(0, 5))
    address = scene.random.choice((scene.address, None))
    code = _end(_start(scene, SECOND_RUN, address=address))
    if code != 0:
        raise AssertionError(f"the second run ended with exit code {code}")
    return f"a run of equal rows on {'the same Ray' if address else 'a Ray of its own'}"


def cancel_and_retry(scene: Scene) -> str:
    """The whole run, or films of it by name: once, or several times in a row. Films are put back a moment later."""
    if not scene.store.exists(RunKeys(run_id=RUN_ID).run):
        return ""
    draw = scene.random
    if draw.random() < 0.3:
        _ask(scene, Request(verb=Verb.CANCEL))
        return "cancelled the run"
    jobs = tuple(sorted(draw.sample(("a", "b", "c"), draw.randint(1, 2))))
    times = draw.choice((1, 1, 3, 10))
    for _ in range(times):
        _ask(scene, Request(verb=Verb.CANCEL, jobs=jobs))
        time.sleep(draw.choice((0.0, draw.uniform(0, 2))))
        _ask(scene, Request(verb=Verb.RETRY, jobs=jobs))
    return f"cancelled and put back {' '.join(jobs)}, {times} times"


def _ask(scene: Scene, request: Request) -> None:
    """As a person does, who tries again where the answer says so."""
    stop = time.monotonic() + _ANSWER_WITHIN_S
    while True:
        try:
            answer = ask(scene.store, RUN_ID, request).answer
        except RenderFarmError as error:
            raise AssertionError(f"{request.verb} was not answered: {error}") from error
        if answer.ok:
            return
        if "try again in a few seconds" not in answer.text or time.monotonic() > stop:
            raise AssertionError(f"{request.verb} was refused: {answer.text}")
        time.sleep(1)


def _start(scene: Scene, run_id: str, *, address: str | None) -> Driver:
    return scene.world.start_driver(scene.manifest, scene.output, options=("--run-id", run_id), address=address)


def _end(driver: Driver) -> int | None:
    """Its exit code, or None when it does not end."""
    stop = time.monotonic() + _WITHIN_S
    while driver.poll() is None and time.monotonic() < stop:
        time.sleep(0.2)
    code = driver.poll()
    for process in descendants(driver.pid) if code is None else []:
        kill(process)
    return code
