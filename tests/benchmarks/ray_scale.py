"""Ray at scale: the coordinator drives many workers on fake GPUs; only their denoiser is a stub, which sleeps.

    python -m tests.benchmarks.ray_scale [--workers 64] [--films 250] [--segments 8] [--seconds 1.0]

Coordinator, machine, leases, run state, segment checkpoints and publishing on local disk are the real ones. Prints the
share of the workers' time between two of their segments, and the gaps. Films are only begun while others wait, so the
last film of each worker is left out: its worker has nothing to do after it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ray

from render_farm.farm.coordinator import worker_pool
from render_farm.farm.coordinator.actor import Coordinator
from render_farm.farm.run.film_task import FilmReport, FilmTask, SegmentReport
from render_farm.farm.run.spec import FarmConfig, FilmEntry, RunSpec
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset
from render_farm.scheduling import events as ev
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.storage.checkpoints import SegmentMeta, StoredFilm, load_film_state, record_segment, save_segment
from render_farm.storage.claims import claim_job
from render_farm.storage.layout import VIDEO
from render_farm.storage.open import open_store
from render_farm.storage.publish import publish

LATENTS = np.zeros((1, 16, 5, 8, 8), np.float32)


@ray.remote(max_restarts=0, max_task_retries=0)
class StubWorker:
    """A `RenderWorker` whose denoiser sleeps. It stores and publishes as the real one does."""

    def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
        self._name = name
        self._films: dict[str, StoredFilm] = {}
        self._seconds = float(os.environ["STUB_SECONDS"])
        self._log = Path(os.environ["STUB_LOG"], f"{name}.jsonl")

    def ready(self, environment: Any, outputs: list[str]) -> dict[str, Any]:
        """As of `RenderWorker`: what every job needs is loaded."""
        open_store(tempfile.gettempdir())
        return {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id(), "unfit": None}

    def render_segment(self, task: FilmTask, segment: int, call_id: int, seat: Any = None) -> SegmentReport:
        """Sleep, store the segment, record it."""
        began = time.time()
        time.sleep(self._seconds)
        ended = time.time()
        store = open_store(task.output)
        claim_job(store, task.run_id, task.work_key)
        state = self._films.get(task.work_key) or load_film_state(store, task.work_key, task.plan.segment_keys)
        attempt = f"{self._name}-{segment}"
        meta = SegmentMeta(attempt=attempt, seconds=self._seconds, worker=self._name, engine={}, group_shape=(1, 1, 1))
        record = save_segment(store, state, LATENTS, meta)
        self._films[task.work_key] = record_segment(store, state, record)
        with self._log.open("a") as log:
            log.write(json.dumps([task.job_id, segment, began, ended]) + "\n")
        return SegmentReport(segment=segment, seconds=self._seconds, engine_s=0.0)

    def finish_film(self, task: FilmTask, attempts: int, call_id: int) -> FilmReport:
        """Publish a file of a few bytes."""
        store = open_store(task.output)
        claim = claim_job(store, task.run_id, task.work_key)
        self._films.pop(task.work_key, None)
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder, VIDEO)
            video.write_bytes(b"stub")
            done = publish(store, task.work_key, f"{self._name}-done", {VIDEO: video}, {"segments": []}, claim=claim)
        return FilmReport(uri="", sha256=done.job["sha256"], num_frames=1, video_bytes=1, render_s=0.0, seconds=0.0)

    def drop_films(self) -> None:
        """Nothing is kept."""

    def stop(self, call_id: int, keep_steps: bool = False) -> None:
        """Nothing stops a sleep."""

    def close(self) -> None:
        """Nothing is kept."""


class BenchCoordinator(Coordinator.__ray_metadata__.modified_class):  # type: ignore[name-defined,misc]
    """The coordinator, with stub workers, and without prompts to encode."""

    def __init__(self, *arguments: Any) -> None:
        worker_pool.RenderWorker = StubWorker
        super().__init__(*arguments)

    async def _encode_and_start(self, run: Any) -> None:
        self._lifecycle.start()
        while len(self._machine.workers) < self._lifecycle.config.num_workers:
            await asyncio.sleep(0.5)
        self._used_before_s = time.process_time()
        for model in run.texts:
            self._events.apply(ev.TextReady(run_id=run.key, model=model))

    def used_s(self) -> float:
        """Processor time of the coordinator's process since all workers were up."""
        return time.process_time() - self._used_before_s


def entries_of(folder: str, num_films: int, num_segments: int) -> list[FilmEntry]:
    spec = replace(spec_of_preset("tiny"), fingerprint="stub")
    entries = []
    for number in range(num_films):
        job = RenderJob(
            job_id=f"film-{number}",
            prompt="a stub",
            num_frames=97 + 80 * (num_segments - 1),
            overlap_history=17,
            addnoise_condition=20,
        )
        plan = plan_film(job, spec)
        assert plan.num_segments == num_segments
        task = FilmTask(run_id="bench", output=folder, model="tiny", plan=plan)
        entries.append(FilmEntry(task=task, costs=(1,) * num_segments, texts=plan.texts))
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--films", type=int, default=250)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="render-farm-scale-") as folder:
        logs = Path(folder, "stub")
        logs.mkdir()
        os.environ.update(STUB_SECONDS=str(options.seconds), STUB_LOG=str(logs))
        result = run(folder, options)
        spans = [[json.loads(line) for line in path.read_text().splitlines()] for path in logs.glob("*.jsonl")]
    print(f"machine    {platform.machine()}, {os.cpu_count()} cores, load {load:.1f} when it began")
    print(f"versions   python {platform.python_version()}, ray {version('ray')}")
    print(f"command    --workers {options.workers} --films {options.films} --segments {options.segments}")
    show(spans, result, options.seconds)


@contextlib.contextmanager
def started_ray(num_workers: int) -> Iterator[None]:
    """A private Ray with so many GPUs that are not there."""
    ray.init(
        num_cpus=os.cpu_count(),  # so many worker processes start at a time
        num_gpus=num_workers,
        include_dashboard=False,
        namespace="render_farm",
        log_to_driver=False,
        object_store_memory=200 << 20,
    )
    try:
        yield
    finally:
        ray.shutdown()


def run(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Render the films; how the run ended, and what the coordinator used."""
    started = time.monotonic()
    with started_ray(options.workers):
        shape = FarmConfig(num_workers=options.workers, device="cuda", scheduling=SchedulingPolicy())
        shape = replace(shape, timeouts=replace(shape.timeouts, worker_start_s=900.0))
        actor = ray.remote(num_cpus=0, max_restarts=0)(BenchCoordinator)
        coordinator = actor.options(name="coordinator").remote(shape, "local")
        spec = RunSpec(run_id="bench", output=f"{folder}/out")
        ray.get(coordinator.add_run.remote(spec, shape))
        entries = entries_of(f"{folder}/out", options.films, options.segments)
        for start in range(0, len(entries), 200):
            ray.get(coordinator.add_films.remote(spec.key, entries[start : start + 200]))
        ray.get(coordinator.seal_run.remote(spec.key))
        counts = ray.get(coordinator.wait.remote(spec.key))
        used_s = ray.get(coordinator.used_s.remote())
        ray.get(coordinator.close.remote())
    return {"counts": counts, "used_s": used_s, "wall_s": time.monotonic() - started}


def show(spans: list[list[list[Any]]], result: dict[str, Any], seconds: float) -> None:
    gaps, firsts, work_s, num_segments = [], [], 0.0, 0
    for mine in spans:
        mine.sort(key=lambda span: span[2])
        num_segments += len(mine)
        firsts += [mine[1][2] - mine[0][3]] if len(mine) > 1 else []
        for before, after in itertools.pairwise(mine):
            gaps.append(after[2] - before[3])
            work_s += before[3] - before[2]
    gaps.sort()
    first = min(span[2] for mine in spans for span in mine)
    last = max(span[3] for mine in spans for span in mine)
    print(f"outcome    {result['counts']}, {num_segments:,} segments on {len(spans)} workers")
    print(f"wall time  {result['wall_s']:.1f} s with Ray's start, {last - first:.1f} s from first to last segment")
    print(f"idle share of the farm   {sum(gaps) / (sum(gaps) + work_s):.2%} (time between two segments of a worker)")
    print(f"gap median               {statistics.median(gaps) * 1000:.1f} ms")
    print(f"gap p99                  {gaps[int(0.99 * len(gaps))] * 1000:.1f} ms")
    print(f"gap after the first one  {statistics.median(firsts) * 1000:.1f} ms, median (all workers begin at once)")
    print(
        f"segments a second        {num_segments / (last - first):.1f}, the coordinator used {result['used_s']:.1f} s"
    )
    print(
        f"longest sleep            {max(s[3] - s[2] for mine in spans for s in mine):.3f} s of {seconds:g} s asked for"
    )


if __name__ == "__main__":
    main()
