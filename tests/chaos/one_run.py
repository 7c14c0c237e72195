"""One seeded run: films are rendered, a fault strikes at a random time, the run goes on to its end, the audit looks."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from render_farm import load_engine
from render_farm.storage.layout import RUNS, WORK
from render_farm.storage.store import Store
from tests.chaos.audit import Audit
from tests.chaos.faults import Fault, scene_of, strike_when_possible
from tests.chaos.world import World, wait_gone
from tests.farm import films

NUM_FRAMES = 53
_JOBS = ("a", "b", "c")
_STARTS = 4
_DRIVER_S = 900
_STRIKE_WITHIN_S = 300


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came of a run; a line of the results file."""

    fault: str
    seed: int
    struck: str
    """What the fault did; empty when it found nothing to strike in time."""
    starts: int
    exit_code: int
    rendered_again: int
    recovery_s: float | None
    """From the fault to the next stored or published piece of work."""
    seconds: float
    violations: list[str]


def expected_latents(seed: int) -> dict[str, np.ndarray]:
    """The latents that an undisturbed engine gives, by job."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine = load_engine("tiny", device="cpu")
        return {job.job_id: engine.render(job).latents.numpy() for job in _jobs(seed)}
    finally:
        torch.set_num_threads(threads)


def _jobs(seed: int) -> list:
    return [
        films.job(f"{name}", **films.THREE_SEGMENTS | {"num_inference_steps": 6, "seed": 1000 * (seed % 7) + number})
        for number, name in enumerate(_JOBS)
    ]


def one_run(world: World, fault: Fault, seed: int, expected: dict[str, np.ndarray]) -> Record:
    """Run, strike, go on, audit."""
    for name, value in world.server.env.items():  # this process looks past the proxy
        os.environ[name] = value
    started = time.monotonic()
    draw = random.Random(f"{fault.letter}{seed}")
    output = f"s3://{world.server.new_bucket()}/out"
    folder = Path(tempfile.mkdtemp(dir=world.folder))
    manifest = films.manifest(folder, _jobs(seed))
    scene = scene_of(world, draw.randrange(2**31), manifest, output)
    before = {process.pid for process in world.processes("ray::RenderWorker")}
    world.driver = world.start_driver(manifest, output)
    _wait_for_progress(scene.store, world, at_least=draw.randint(0, 6))
    time.sleep(draw.uniform(0, 3))
    struck = strike_when_possible(fault, scene, within_s=_STRIKE_WITHIN_S)
    struck_s, had = time.monotonic(), _progress(scene.store)
    starts, exit_code, recovery_s = 1, None, None
    while exit_code is None:
        if recovery_s is None and _progress(scene.store) > had:
            recovery_s = round(time.monotonic() - struck_s, 1)
        exit_code = world.driver.poll()
        if exit_code not in (None, 0) and starts < _STARTS:
            starts, exit_code = starts + 1, None
            world.driver = world.start_driver(manifest, output)
        if time.monotonic() - struck_s > _DRIVER_S:
            world.driver.kill()
            exit_code = -1
        time.sleep(0.2)
    text = _text(world.driver)
    world.thaw()
    world.proxy.storm = None
    world.proxy.speak.set()
    violations, again = _audit(scene.store, expected, num_kills=2 if fault.letter == "f" else 1)
    if exit_code != 0:
        violations.append(f"the_run_ends_with_exit_code_0: it was {exit_code} {text}")
    violations += _left_behind(world, before)
    return Record(
        fault=fault.letter,
        seed=seed,
        struck=struck,
        starts=starts,
        exit_code=exit_code,
        rendered_again=again,
        recovery_s=recovery_s,
        seconds=round(time.monotonic() - started, 1),
        violations=violations,
    )


def _audit(store: Store, expected: dict[str, np.ndarray], *, num_kills: int) -> tuple[list[str], int]:
    runs = store.list_folders(RUNS)
    if len(runs) != 1 or f"{RUNS}/{runs[0]}/results.parquet" not in store.list(RUNS):
        return [f"every_run_has_results: {runs}"], 0
    audit = Audit(store, runs[0], expected, NUM_FRAMES)
    return audit.violations(num_kills=num_kills), audit.num_rendered_again()


def _left_behind(world: World, before: set[int]) -> list[str]:
    """Processes of the farm that should have ended with the run, and temporary folders of dead ones."""
    stop = time.monotonic() + 60
    left: list[psutil.Process] = []
    while time.monotonic() < stop:
        left = [process for process in world.processes("ray::RenderWorker") if process.pid not in before]
        if not left:
            break
        wait_gone(left, 1.0)
    return [f"no_process_is_left_behind: {len(left)} workers"] if left else []


def _progress(store: Store) -> int:
    """How many pieces of work are durable: segments and published jobs."""
    try:
        keys = store.list(WORK)
    except Exception:  # noqa: BLE001  (the bucket may not be there yet: no progress)
        return 0
    return sum("/state/" in key or key.endswith("/commit.json") for key in keys)


def _wait_for_progress(store: Store, world: World, *, at_least: int) -> None:
    stop = time.monotonic() + _STRIKE_WITHIN_S
    assert world.driver is not None
    while _progress(store) < at_least and world.driver.poll() is None and time.monotonic() < stop:
        time.sleep(0.2)


def _text(driver: subprocess.Popen) -> str:
    try:
        return (driver.communicate(timeout=10)[0] or "")[-300:]
    except subprocess.TimeoutExpired:
        return ""


def line(record: Record) -> str:
    """A record as a line of the results file."""
    return json.dumps(asdict(record))
