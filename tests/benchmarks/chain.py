"""What is rendered again when films change, and what a night of drafts costs, counted by segments and store requests.

    python -m tests.benchmarks.chain [edit|keys|engine|drafts ...] [--films 64] [--picked 8] [--edits 200] [--real 200]

Films of the built-in model, 32x32, 2 steps, rendered by a worker on the CPU without Ray, into a folder. The edits
that are rendered are of films of 2 to 4 segments.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from render_farm import load_engine
from render_farm.errors import InvalidJobError
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.job import RenderJob
from render_farm.manifest.drafts import draft_id
from render_farm.planning import FilmPlan, plan_film, spec_of_preset
from render_farm.shots import Shot
from render_farm.storage.local import LocalStore
from render_farm.storage.open import open_store
from tests.helpers import films

WORDS = ["a red circle moving right", "a blue square", "a green triangle", "a yellow cross", "a purple circle"]
WINDOWS = {"base_num_frames": 17, "overlap_history": 5}
"""5 latent frames, 3 of them new: 12 pixel frames."""
VERBS = ("read_bytes", "write_bytes", "create", "write_file", "list", "list_folders", "exists", "size", "delete")
PARTS = ("edit", "keys", "engine", "drafts")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--picked", type=int, default=8)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--real", type=int, default=200, help="Edits that are rendered.")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}")
    bench = Bench(Path(tempfile.mkdtemp(prefix="chain-")))
    try:
        if "edit" in options.parts:
            bench.change_prompt_13()
        if "keys" in options.parts:
            edits_of_keys(options.edits)
        if "engine" in options.parts:
            bench.edits_of_films(options.real)
        if "drafts" in options.parts:
            bench.drafts(options.films, options.picked)
    finally:
        shutil.rmtree(bench.folder)


class Bench:
    """Renders films, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = load_engine("tiny", device="cpu", dtype="float32")
        self.worker = FilmWorker("w")

    def rendered(self, output: str, *jobs: RenderJob, first_segments: int = 0) -> int:
        """Render and publish films one after the other. Returns how many segments were rendered."""
        worker, steps = self.worker, set()
        for job in jobs:
            plan = plan_film(job, self.engine.spec, first_segments=first_segments)
            task = FilmTask(run_id="r", output=str(self.folder / output), model="tiny", plan=plan, keep_latents=True)
            stored = EmbeddingStore(open_store(task.output), "r", self.engine.spec.fingerprint)
            for text, embedding in self.engine.encode_prompts(stored.missing(plan.texts)).items():
                stored.save(text, embedding)
            for segment in range(plan.num_segments):
                worker.render_segment(task, segment, on_step=lambda step: steps.add((job.job_id, step.segment)))  # noqa: B023
            worker.finish_film(task)
        worker.drop_films()  # the next ones are read from the store
        return len(steps)

    def equal(self, job_id: str, *outputs: str) -> bool:
        """Whether a film has the same latents and the same video in two outputs."""
        one, other = (films.latents(self.folder / output, job_id) for output in outputs)
        videos = {(self.folder / output / job_id / "video.mp4").read_bytes() for output in outputs}
        return np.array_equal(one, other) and len(videos) == 1

    def change_prompt_13(self) -> None:
        """A film of 18 segments, one prompt each."""
        prompts = [WORDS[0], *[WORDS[1]] * 11, WORDS[2], *[WORDS[1]] * 5]
        changed = [*prompts[:12], WORDS[3], *prompts[13:]]
        job = film("a", prompt=prompts, num_frames=17 + 17 * 12)
        before = self.rendered("edit", job)
        again = self.rendered("edit", replace(job, prompt=tuple(changed)))
        fresh = self.rendered("edit-fresh", replace(job, prompt=tuple(changed)))
        same = self.equal("a", "edit", "edit-fresh")
        print(
            f"prompt 13 of 18 changes: {before} segments at first, {again} rendered again (aim 6), {fresh} without "
            f"what is stored; latents and video equal a fresh render: {same}"
        )

    def edits_of_films(self, number: int) -> None:
        """Random films and a random edit of each, rendered."""
        rng, wrong, saved, total = random.Random(2), 0, 0, 0
        started = time.process_time()
        for index in range(number):
            before, edited = small_edit(rng)
            outputs = f"edits-{index}", f"edits-{index}-fresh"
            self.rendered(outputs[0], before)
            again = self.rendered(outputs[0], edited)
            fresh = self.rendered(outputs[1], edited)
            expected = len(changed_segments(plan_of(before), plan_of(edited)))
            is_equal = self.equal("a", *outputs)
            if again != expected or not is_equal:
                wrong += 1
                print(f"edit {index}: {again} rendered, {expected} expected, equal: {is_equal}: {before} -> {edited}")
            saved, total = saved + fresh - again, total + fresh
            for output in outputs:
                shutil.rmtree(self.folder / output)
            if (index + 1) % 20 == 0 or index + 1 == number:
                print(
                    f"{index + 1} random edits, rendered: {total - saved} of {total} segments rendered again, {wrong} "
                    f"wrong, {time.process_time() - started:.0f} CPU s",
                    flush=True,
                )

    def drafts(self, num_films: int, num_picked: int, num_segments: int = 6) -> None:
        """Many seeds of one prompt: a segment each, then the whole of some."""
        size = {"prompt": WORDS[0], "num_frames": 17 + (num_segments - 1) * 12}
        jobs = [film(f"f{seed}", seed=seed, **size) for seed in range(num_films)]
        names = [replace(job, job_id=draft_id(job.job_id)) for job in jobs]
        with counted() as requests:
            started = time.process_time()
            drafted = self.rendered("drafts", *names, first_segments=1)
            of_drafts, drafts_s = sum(requests.values()), time.process_time() - started
            started = time.process_time()
            finished = self.rendered("drafts", *jobs[:num_picked])
            of_picked, picked_s = sum(requests.values()) - of_drafts, time.process_time() - started
        with counted() as requests:
            started = time.process_time()
            whole = self.rendered("whole", *jobs[:num_picked])
            of_whole, whole_s = sum(requests.values()), time.process_time() - started
        same = all(self.equal(job.job_id, "drafts", "whole") for job in jobs[:num_picked])
        every = num_films / num_picked
        print(
            f"{num_films} drafts: {drafted} segments, {of_drafts} store requests, {drafts_s:.1f} CPU s\n"
            f"{num_picked} picked of them: {finished} segments more, {of_picked} requests, {picked_s:.1f} CPU s\n"
            f"  in all {drafted + finished} = {num_films} + {num_picked} x {num_segments - 1} segments, "
            f"{of_drafts + of_picked} requests, {drafts_s + picked_s:.1f} CPU s\n"
            f"the same {num_picked} films without drafts: {whole} segments, {of_whole} requests, {whole_s:.1f} CPU s; "
            f"equal bit for bit: {same}\n"
            f"  all {num_films} whole, by that: {whole * every:.0f} segments, {of_whole * every:.0f} requests, "
            f"{whole_s * every:.1f} CPU s"
        )


def film(job_id: str, **values: Any) -> RenderJob:
    return RenderJob(job_id=job_id, **{**films.SMALL, **WINDOWS, "seed": 11, **values})


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Requests to stores on a disk, by verb."""
    requests: Counter[str] = Counter()
    originals = {verb: getattr(LocalStore, verb) for verb in VERBS if hasattr(LocalStore, verb)}

    def counting(verb: str, original: Any) -> Any:
        def call(self: LocalStore, *arguments: Any, **named: Any) -> Any:
            requests[verb] += 1
            return original(self, *arguments, **named)

        return call

    for verb, original in originals.items():
        setattr(LocalStore, verb, counting(verb, original))
    try:
        yield requests
    finally:
        for verb, original in originals.items():
            setattr(LocalStore, verb, original)


def random_film(rng: random.Random) -> RenderJob:
    """Up to eight shots, some of them after a cut."""
    shots = [Shot(prompt=rng.choice(WORDS), num_frames=rng.choice([None, 17, 29]))]
    for _ in range(rng.randint(0, 7)):
        cut = rng.random() < 0.25
        num_frames = rng.choice([None, 17, 5]) if cut else rng.choice([None, 12, 24, 4])
        seed = rng.randint(0, 3) if rng.random() < 0.2 else None
        shots.append(Shot(prompt=rng.choice(WORDS), num_frames=num_frames, cut=cut, seed=seed))
    return film("a", shots=tuple(shots), seed=rng.randint(0, 3), addnoise_condition=rng.choice([0, 20]))


def small_edit(rng: random.Random) -> tuple[RenderJob, RenderJob]:
    """A film of 2 to 4 segments and the same with one thing changed, still so small."""
    while True:
        before = random_film(rng)
        edited = edit(before, random_film(rng), rng)
        if edited is not None and all(2 <= plan_of(one).num_segments <= 4 for one in (before, edited)):
            return before, edited


def edit(job: RenderJob, other: RenderJob, rng: random.Random) -> RenderJob | None:
    """The film with one thing changed; None where that cannot be rendered."""
    assert job.shots is not None and other.shots is not None
    shots, at = list(job.shots), rng.randrange(len(job.shots))
    match rng.randrange(6):
        case 0:
            shots[at] = replace(shots[at], prompt=rng.choice(WORDS))
        case 1:
            shots[at] = replace(shots[at], seed=rng.randint(0, 3))
        case 2:
            shots.insert(at, other.shots[0])
        case 3 if len(shots) > 1:
            del shots[at]
        case 4:
            shots = [*shots, *other.shots[1:]]
        case _:
            shots[at] = replace(shots[at], cut=not shots[at].cut)
    try:
        edited = replace(job, shots=tuple(shots), prompt=None)  # type: ignore[arg-type]
        plan_of(edited)
    except InvalidJobError:
        return None
    return edited


def plan_of(job: RenderJob) -> FilmPlan:
    return plan_film(job, spec_of_preset("tiny", dtype="float32", fingerprint="f"))


def facts(plan: FilmPlan, index: int) -> tuple[Any, ...]:
    """All that a segment's latents are computed from, written a second time: by the takes, without a key."""
    window = plan.windows[index]
    take, own = plan.take_of(index)
    local = take.windows[own]
    noise = take.job.addnoise_condition if local.num_prefix_frames else 0
    drawn = [one.num_latent_frames for one in take.windows[local.stream_start : own + 1]]
    chain = () if window.starts_take else facts(plan, index - 1)
    return (chain, take.job.prompt_of(own), take.job.seed, drawn, local.num_prefix_frames, noise)


def changed_segments(before: FilmPlan, after: FilmPlan) -> set[str]:
    """The segments of `after` that `before` does not have, by their facts, each once."""
    known = {repr(facts(before, index)) for index in range(before.num_segments)}
    return {found for index in range(after.num_segments) if (found := repr(facts(after, index))) not in known}


def edits_of_keys(number: int) -> None:
    """Random films and random edits, by their keys."""
    rng, done, wrong, shared, total = random.Random(1), 0, 0, 0, 0
    while done < number:
        before = random_film(rng)
        edited = edit(before, random_film(rng), rng)
        if edited is None:
            continue
        one, two = plan_of(before), plan_of(edited)
        new = set(two.segment_keys) - set(one.segment_keys)
        wrong += len(new) != len(changed_segments(one, two))
        done, shared, total = done + 1, shared + two.num_segments - len(new), total + two.num_segments
    print(f"{number} random edits, by keys: {total - shared} of {total} segments new, {wrong} wrong")


if __name__ == "__main__":
    main()
