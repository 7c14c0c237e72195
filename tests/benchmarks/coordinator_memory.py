"""Memory of the coordinator's process with many jobs: a real actor, from add_run until segments are handed out.

    python -m tests.benchmarks.coordinator_memory [--jobs 100000] [--workers 2]

Its workers are those of `ray_scale`, whose denoiser sleeps. Jobs have 1 to 15 segments and a prompt each. The memory is
what is in RAM, the libraries included.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.spec import FarmConfig, FilmEntry, RunSpec
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.cost import TokenPasses
from render_farm.planning.groups import GroupShape
from render_farm.scheduling.policy import SchedulingPolicy
from tests.benchmarks.ray_scale import BenchCoordinator, started_ray

_BATCH = 200


class _Measured(BenchCoordinator):
    """With a look at its own process."""

    def memory(self) -> tuple[int, int]:
        """Bytes in RAM now, and at most so far."""
        now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        return now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def num_running(self, key: str) -> int:
        """Films of which a segment is being rendered."""
        return self._machine.counts(key).get("running", 0)


def entries(folder: str, number: int) -> Iterator[list[FilmEntry]]:
    """Films as a driver hands them over."""
    spec, costs, draw = replace(spec_of_preset("df-14b-540p"), fingerprint="stub"), TokenPasses(), random.Random(1)
    for start in range(0, number, _BATCH):
        batch = []
        for i in range(start, min(start + _BATCH, number)):
            job = RenderJob(
                job_id=f"film-{i}",
                prompt=f"a cat that walks along a wall, number {i}, in the light of the evening, film grain",
                num_frames=97 + 80 * (draw.randint(1, 15) - 1),
                overlap_history=17,
                addnoise_condition=20,
            )
            plan = plan_film(job, spec)
            task = FilmTask(run_id="bench", output=folder, model=spec.name, plan=plan)
            joined = tuple(GroupShape(cfg=2, ulysses=ulysses) for ulysses in (1, 2, 4))
            batch.append(
                FilmEntry(
                    task=task,
                    costs=costs.of(plan),
                    texts=plan.texts,
                    share=draw.choice("abc"),
                    joined=joined,
                    joined_speeds=(1.9, 3.6, 6.6),
                )
            )
        yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(f"machine    {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} when it began")
    print(f"versions   python {platform.python_version()}, ray {version('ray')}")
    print(f"command    --jobs {options.jobs} --workers {options.workers}")
    with tempfile.TemporaryDirectory(prefix="render-farm-memory-") as folder:
        os.environ.update(STUB_SECONDS="2", STUB_LOG=folder)
        with started_ray(options.workers):
            measure(f"{folder}/out", options)


def measure(folder: str, options: argparse.Namespace) -> None:
    shape = FarmConfig(num_workers=options.workers, device="cuda", scheduling=SchedulingPolicy())
    coordinator: Any = ray.remote(num_cpus=0, max_restarts=0)(_Measured).remote(shape, "local")
    spec = RunSpec(run_id="bench", output=folder)
    ray.get(coordinator.add_run.remote(spec, shape))
    told("a run without jobs", coordinator)
    began = time.monotonic()
    for batch in entries(folder, options.jobs):
        ray.get(coordinator.add_films.remote(spec.key, batch))
    told(f"{options.jobs:,} jobs added", coordinator, f", in {time.monotonic() - began:.0f} s with planning them")
    ray.get(coordinator.seal_run.remote(spec.key))
    while ray.get(coordinator.num_running.remote(spec.key)) < options.workers:
        time.sleep(0.5)
    told("segments handed out", coordinator)
    began, used_s = time.monotonic(), ray.get(coordinator.used_s.remote())
    time.sleep(30)
    spent_s = ray.get(coordinator.used_s.remote()) - used_s
    told("half a minute later", coordinator, f", {spent_s / (time.monotonic() - began):.1%} of a core since")


def told(what: str, coordinator: Any, more: str = "") -> None:
    now, most = ray.get(coordinator.memory.remote())
    print(f"{what:24} {now / 2**20:7,.0f} MiB, at most {most / 2**20:,.0f} MiB{more}", flush=True)


if __name__ == "__main__":
    main()
