"""One seeded run: films are rendered, a fault strikes at a random time, the run goes on to its end, the audit looks."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load, load_file, save_file

from render_farm import RenderJob, load_engine
from render_farm.storage import open_store
from render_farm.storage.done import read_done
from render_farm.storage.layout import SEGMENTS, WORK, JobKeys, RunKeys
from render_farm.storage.store import Store
from render_farm.tiny import MODEL_DIR
from tests.chaos.audit import Audit
from tests.chaos.evidence import keep_evidence
from tests.chaos.faults import strike_when_possible
from tests.chaos.left_behind import Machine, what_is_left
from tests.chaos.records import Record
from tests.chaos.rivals import SECOND_RUN
from tests.chaos.scene import RUN_ID, Fault, Scene
from tests.chaos.world import World
from tests.helpers import films

NUM_FRAMES = 53
_JOBS = ("a", "b", "c")
_NUM_PIECES = 4 * len(_JOBS)
"""Three segments and a published film of each job."""
_NUM_SHARED = 3
"""So many of the segments are other films' too, where films begin alike."""
_PROMPTS = ("a red circle moving right", "a blue square")
_STARTS = 4
_DRIVER_S = 900
_STRIKE_WITHIN_S = 300
_LOOK_EVERY_S = 0.3


@dataclass
class Undisturbed:
    """What runs need that no fault touches, made once: by an engine beside the farm, and by a run before."""

    _latents: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    embeddings: dict[str, bytes] = field(default_factory=dict)
    """Stored prompts, by key: most runs find theirs encoded, as one that goes on does."""

    def latents(self, world: World, fault: Fault, seed: int) -> dict[str, np.ndarray]:
        """By job, of the films of the run `seed`: of one engine, or of groups of the shape that the fault asks for."""
        name = f"{seed % 3} {fault.film} {fault.options} {fault.is_shared}"
        if name not in self._latents:
            make = _of_a_farm if fault.options else _of_an_engine
            self._latents[name] = make(world, fault, seed)
        return self._latents[name]


def _of_an_engine(world: World, fault: Fault, seed: int) -> dict[str, np.ndarray]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine = load_engine("tiny", device="cpu")
        jobs = _jobs(fault, seed, world)
        made = {job.job_id: engine.render(job).latents.numpy() for job in jobs if not job.model}
        return {job.job_id: made.get(job.job_id, np.zeros(0)) for job in jobs}
    finally:
        torch.set_num_threads(threads)


def _of_a_farm(world: World, fault: Fault, seed: int) -> dict[str, np.ndarray]:
    output = f"s3://{world.server.new_bucket()}/out"
    manifest = films.manifest(Path(tempfile.mkdtemp(dir=world.folder)), _jobs(fault, seed, world))
    world.driver = world.start_driver(manifest, output, options=fault.options, address=world.address)
    films.wait_for(lambda: world.driver is None or world.driver.poll() is not None, what="an undisturbed run")
    store = open_store(output)
    return {name: load(store.read_bytes(JobKeys(job_id=name).latents))["latents"] for name in _JOBS}


def _jobs(fault: Fault, seed: int, world: World) -> list[RenderJob]:
    """Films that begin alike differ by the prompt of their last segment, of their last two, and so on."""
    values = {**films.THREE_SEGMENTS, "num_inference_steps": 6, **fault.film}
    models = [""] * (len(_JOBS) - 1) + [_broken_model(world.folder / "broken") if fault.is_broken else ""]
    jobs = []
    for number, (name, model) in enumerate(zip(_JOBS, models, strict=True)):
        own: dict[str, object] = {"seed": 1000 * (seed % 3) + (0 if fault.is_shared else number)}
        if fault.is_shared:
            own["prompt"] = (_PROMPTS[0],) * (len(_JOBS) - number) + (_PROMPTS[1],) * number
        jobs.append(films.job(name, **values, **own, **({"model": model} if model else {})))
    return jobs


def _broken_model(folder: Path) -> str:
    """The built-in model with one weight that is not a number."""
    if not folder.exists():
        shutil.copytree(MODEL_DIR, folder)
        weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(weights)
        tensors["proj_out.weight"][0, 0] = np.nan
        save_file(tensors, weights, metadata={"format": "pt"})
    return str(folder)


def one_run(world: World, fault: Fault, seed: int, undisturbed: Undisturbed, *, keep: Path | None = None) -> Record:
    """Run, strike, go on, audit. `keep`: where to leave what a run with violations left."""
    os.environ.update(world.server.env)  # this process looks past the proxy
    started = time.monotonic()
    expected = undisturbed.latents(world, fault, seed)
    draw = random.Random(f"{fault.letter}{seed}")
    output = f"s3://{world.server.new_bucket()}/out"
    store = open_store(output)
    is_slow = fault.is_slow or random.Random(f"latency {fault.letter}{seed}").random() < 0.5
    world.proxy.latency = random.Random(seed) if is_slow else None
    if seed % 4 and not fault.encodes:
        for key, data in undisturbed.embeddings.items():
            store.write_bytes(key, data)
    address = None if fault.private else world.address
    scene = Scene(
        world=world,
        random=draw,
        store=store,
        manifest=films.manifest(Path(tempfile.mkdtemp(dir=world.folder)), _jobs(fault, seed, world)),
        output=output,
        address=address,
    )
    command = {"options": ("--run-id", RUN_ID, *fault.options), "address": address, "settings": fault.settings}
    if world.clock is not None:
        world.set_clock(0)
    before = Machine.now(world)
    world.driver = world.start_driver(scene.manifest, output, **command)
    num_pieces = _NUM_PIECES - (_NUM_SHARED if fault.is_shared else 0)
    at_least, after_s = draw.randint(0, num_pieces - 5), draw.uniform(0, 1.0)
    if not fault.is_early:
        _wait_for_progress(store, world, at_least=at_least)
        time.sleep(after_s)
    violations = []
    try:
        struck = strike_when_possible(fault, scene, within_s=_STRIKE_WITHIN_S)
    except AssertionError as error:
        struck, violations = fault.text, [str(error)]
    struck_s, had = time.monotonic(), _progress(store)
    starts, exit_code, recovery_s = 1, None, None
    while exit_code is None:
        if recovery_s is None and struck and _progress(store) > had:
            recovery_s = round(time.monotonic() - struck_s, 1)
        exit_code = world.driver.poll()
        if exit_code is not None and starts < _STARTS and not _is_complete(store, fault, exit_code):
            starts, exit_code = starts + 1, None
            while world.proxy.is_expired:  # nobody starts it again before there are new credentials
                time.sleep(_LOOK_EVERY_S)
            world.driver = world.start_driver(scene.manifest, output, **command)
        if time.monotonic() - struck_s > _DRIVER_S:
            world.driver.kill()
            exit_code = -1
        time.sleep(_LOOK_EVERY_S)
    for cancel in scene.later:
        cancel()
    world.calm()
    found, again, begun_again = _audit(store, expected, fault)
    violations += found
    if exit_code != fault.exit_code:
        violations.append(
            f"the_run_ends_with_exit_code_{fault.exit_code}: it was {exit_code} {world.driver.output()[-300:]}"
        )
    violations += what_is_left(world, before)
    keys = RunKeys(run_id=RUN_ID)
    if not undisturbed.embeddings:
        undisturbed.embeddings = {key: store.read_bytes(key) for key in store.list(keys.embeddings)}
    record = Record(
        fault=fault.letter,
        seed=seed,
        struck=struck,
        starts=starts,
        exit_code=exit_code,
        rendered_again=again,
        begun_again=begun_again,
        recovery_s=recovery_s,
        seconds=round(time.monotonic() - started, 1),
        is_slow=is_slow,
        violations=violations,
    )
    if violations and keep is not None:
        try:
            keep_evidence(keep, world, store, record)
        except Exception:  # noqa: BLE001  (the record with its violations is worth more)
            traceback.print_exc()
    for end in scene.last:
        end()
    return record


def _audit(store: Store, expected: dict[str, np.ndarray], fault: Fault) -> tuple[list[str], int, int]:
    if not store.exists(RunKeys(run_id=RUN_ID).results):
        return ["every_run_has_results: there are none"], 0, 0
    audit = Audit(store, RUN_ID, expected, NUM_FRAMES)
    violations = audit.violations(num_kills=fault.kills)
    if store.exists(RunKeys(run_id=SECOND_RUN).run):
        rival = Audit(store, SECOND_RUN, expected, NUM_FRAMES).violations(num_kills=fault.kills)
        violations += [f"{SECOND_RUN}: {text}" for text in rival]
    if not fault.counts:
        violations += audit.counted_attempts()
    not_done = [job_id for job_id in _JOBS if job_id not in audit.done()]
    if not_done != ([_JOBS[-1]] if fault.is_broken else []):
        violations.append(f"every_film_is_done_but_a_broken_one: {not_done} are not")
    if fault.is_broken:
        violations += audit.not_finite(_JOBS[-1])
    return violations, audit.num_rendered_again(), audit.num_begun_again()


def _is_complete(store: Store, fault: Fault, exit_code: int) -> bool:
    """Whether the command need not be started again: films may have been put back when its run was over."""
    return exit_code == fault.exit_code and (fault.is_broken or all(read_done(store, job_id) for job_id in _JOBS))


def _progress(store: Store) -> int:
    """How many pieces of work are durable: segments and published jobs."""
    return sum(
        key.endswith("/commit.json") or (key.startswith(f"{SEGMENTS}/") and key.endswith(".json"))
        for key in store.list(WORK)
    )


def _wait_for_progress(store: Store, world: World, *, at_least: int) -> None:
    stop = time.monotonic() + _STRIKE_WITHIN_S
    assert world.driver is not None
    while _progress(store) < at_least and world.driver.poll() is None and time.monotonic() < stop:
        time.sleep(_LOOK_EVERY_S)
