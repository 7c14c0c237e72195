"""What observing costs: a step of the engine with and without what is reported of it, and the farm's whole bookkeeping.

    python -m tests.benchmarks.observing [--steps 20000] [--films 10000] [--repeats 5]

Beside the engine, a step pays for its `StepProgress` with the size of the key/value cache, for the worker's callback
(which calls the coordinator a few times a second), and, in the coordinator's process, for the run's book and the
metrics. A worker says what it uses every 2 s, the coordinator how the farm stands every 5 s, with a look at each
film. Ray's part is measured in a private Ray.

Then a small film, in CPU seconds of one process, rendered and published by a worker with and without all of that,
turn by turn; what is said every 2 s is said every 0.5 s there, for the film is short.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median

import ray
import torch

from render_farm import load_engine
from render_farm.engine.progress import StepProgress
from render_farm.engine.transformer.kv_cache import KeyValueCache
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.ray_cluster.ray_metrics import RayMetrics
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.owned_run import OwnedRun, acquire_run
from render_farm.farm.run.spec import FilmEntry, RunSpec
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.farm.worker.metrics import WorkerMetrics
from render_farm.job import RenderJob
from render_farm.observability.metrics import PHASE_SECONDS
from render_farm.planning import plan_film, spec_of_preset
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.states import State
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.open import open_store


def seconds_of(work: Callable[[], object], times: int) -> float:
    """CPU seconds of one call, on average, after a tenth as many to warm up."""
    for _ in range(max(1, times // 10)):
        work()
    started = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - started) / times


def full_size_cache() -> KeyValueCache:
    """A cache with as many tensors as the 14B model's, 40 layers and two branches; tiny ones, for only they count."""
    cache = KeyValueCache(capacity_frames=2)
    tokens = torch.zeros(1, 2, 1, 4)
    for layer in range(40):
        for branch in range(2):
            cache.join((layer, branch), tokens, tokens, num_stored_frames=1, tokens_per_frame=1)
    return cache


def render_film(folder: str, run: OwnedRun, told: FarmMetrics | None, sink: RayMetrics) -> float:
    """CPU seconds of a film of three segments, observed when `told` is given."""
    engine = load_engine("tiny", device="cpu")
    plan = engine.plan(RenderJob(job_id="film", prompt="a red circle moving right", num_frames=257))
    with tempfile.TemporaryDirectory(dir=folder) as output:
        task = FilmTask(run_id="r", output=output, model="tiny", plan=plan)
        stored = EmbeddingStore(open_store(output), "r", engine.spec.fingerprint)
        for text, embedding in engine.encode_prompts(plan.texts).items():
            stored.save(text, embedding)
        worker = FilmWorker("worker-0.1", num_threads=1)
        began = time.process_time()
        watched = WorkerMetrics(worker, sink, every_s=0.5) if told is not None else None
        asked_s = 0.0

        def on_step(progress: StepProgress) -> None:
            nonlocal asked_s
            run.progress.stepped("shot-1", 0, progress.step, progress.num_steps)
            if time.monotonic() - asked_s > 0.5 and told is not None:
                asked_s = time.monotonic()
                told.sample({"night": run}, FarmMachine(), now=asked_s * 10, now_unix_s=time.time())

        for segment in range(plan.num_segments):
            report = worker.render_segment(task, segment, on_step=on_step if told is not None else None)
            if told is not None:
                told.rendered(report)
        film = worker.finish_film(task)
        if told is not None:
            told.published(film, fps=plan.job.fps)
        if watched is not None:
            watched.close()
        seconds = time.process_time() - began
        worker.close()
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--films", type=int, default=10000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    packages = ("torch", "ray")
    print(f"machine   {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}")
    print(f"versions  python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in packages))
    print(f"command   {' '.join(sys.orig_argv[1:])}")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    with tempfile.TemporaryDirectory() as folder:
        cache = full_size_cache()
        step_s = seconds_of(lambda: cache.num_bytes, options.steps)
        print(f"a step, worker: size of a 14B model's key/value cache      {step_s * 1e6:9.2f} us")

        sink = RayMetrics()
        record_s = seconds_of(lambda: sink.observe(PHASE_SECONDS, 1.0, phase="denoise"), options.steps)
        print(f"one value of a metric to Ray                               {record_s * 1e6:9.2f} us")

        watched = WorkerMetrics(FilmWorker("worker-0.1"), sink, every_s=3600)
        say_s = seconds_of(watched.say, options.steps // 10)
        print(f"every 2 s, worker: what it uses and moves                  {say_s * 1e6:9.2f} us")

        lease = LeaseTiming(gone_after_s=3600, renew_every_s=900)
        run = acquire_run(RunSpec(run_id="night", output=folder), this_holder(), lease, on_lost=lambda error: None)
        plan = plan_film(RenderJob(job_id="a", prompt="x", num_frames=257), spec_of_preset("tiny"))
        for index in range(options.films):
            task = FilmTask(run_id="night", output=folder, model="tiny", plan=plan)
            entry = FilmEntry(task=task, costs=(1,) * plan.num_segments, deadline_s=time.time() + index)
            film = run.progress.add(entry)
            run.progress.films[f"shot-{index}"] = film
        run.progress.films.pop("a")
        run.progress.state = State.RUNNING
        steps = iter(range(10**9))
        stepped_s = seconds_of(lambda: run.progress.stepped("shot-1", 0, next(steps), 10**9), options.steps)
        print(f"a report of steps, coordinator: the run's book             {stepped_s * 1e6:9.2f} us")
        told, machine = FarmMetrics(sink), FarmMachine()
        now = iter(range(0, 10**9, 10))
        sample_s = seconds_of(lambda: told.sample({"night": run}, machine, now=next(now), now_unix_s=time.time()), 20)
        print(f"every 5 s, coordinator: how {options.films} films stand          {sample_s * 1e6:9.2f} us")
        watched.close()
        render_film(folder, run, None, sink)  # imports, first allocations
        told = FarmMetrics(sink)
        with_it, without = [], []
        for _ in range(options.repeats):
            without.append(render_film(folder, run, None, sink))
            with_it.append(render_film(folder, run, told, sink))
        print("a film, CPU s, not observed        " + " ".join(f"{s:7.2f}" for s in without))
        print("a film, CPU s, observed            " + " ".join(f"{s:7.2f}" for s in with_it))
        print(f"medians {median(without):.2f} and {median(with_it):.2f}: {median(with_it) / median(without) - 1:+.2%}")
        run.lease.stop()
    ray.shutdown()
    print(f"in all, of a second: worker {say_s / 2:.4%}, coordinator {sample_s / 5:.4%} (and 4 step reports a worker)")


if __name__ == "__main__":
    main()
