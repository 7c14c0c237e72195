"""The scheduler at scale, in simulated time: a night, the cost of a decision, a tail, memory.

    python -m tests.benchmarks.scheduler [night decisions tail memory]

Times are processor seconds of the scheduler itself (`process_time`), so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.progress import RunProgress
from render_farm.farm.run.scheduled_film import scheduled
from render_farm.farm.run.spec import FilmEntry, RunSpec
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.cost import segment_token_passes
from render_farm.scheduling import events as ev
from render_farm.scheduling.events import QueuedFilm
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.simulator import Outcome, SimulatedFarm, simulate
from render_farm.storage.open import open_store

SPEED = {1: 1.0, 2: 1.9, 4: 3.6, 8: 6.6}
"""Of groups, by size: assumed."""
KINDS = (("df-1.3b-540p", 90.0), ("df-14b-540p", 540.0), ("df-14b-720p", 1100.0))
"""Models and seconds of a segment: assumed."""
SEGMENTS = 1, 15


def films_of(number: int, *, seed: int = 1, run_id: str = "night") -> list[QueuedFilm]:
    """Jobs of 1 to 15 segments of three models, a tenth of the large ones pinned to groups of 2, 4 or 8; a fifth with
    LoRAs, three owners."""
    draw, films = random.Random(seed), []
    for i in range(number):
        model, seconds = draw.choices(KINDS, (4, 4, 2))[0]
        size = draw.choices((1, 2, 4, 8), (90, 5, 3, 2))[0] if model != KINDS[0][0] else 1
        segments = draw.randint(*SEGMENTS)
        joined = tuple(larger for larger in (2, 4, 8) if larger > size)
        films.append(
            QueuedFilm(
                run_id=run_id,
                job_id=f"f{i}",
                num_segments=segments,
                model=model,
                adapters=((draw.choice("xyz"), 1.0),) if draw.random() < 0.2 else (),
                share=draw.choice(("ads", "docs", "shorts")),
                group_size=size,
                joined_sizes=joined,
                joined_speeds=tuple(SPEED[larger] / SPEED[size] for larger in joined),
                segments_s=(seconds / SPEED[size],) * segments,
                cost_class=(model,),
            )
        )
    return films


def night() -> None:
    """10,000 jobs on 512 GPUs with 1 % node failures an hour."""
    outcome = simulate(films_of(10_000), SimulatedFarm(num_gpus=512, failures_per_hour=0.01))
    show("10,000 jobs, 512 GPUs, 1 % node failures an hour", outcome)


def show(title: str, outcome: Outcome) -> None:
    print(f"{title}: {outcome.counts}")
    print(f"  makespan               {outcome.makespan_s:12.0f} s, lower bound {outcome.bound.seconds:.0f} s")
    print(f"  over the bound         {outcome.over_bound:12.2%}")
    print(f"  utilisation until tail {outcome.utilisation(outcome.tail_s):12.2%} (tail at {outcome.tail_s:.0f} s)")
    print(f"  utilisation in all     {outcome.utilisation():12.2%}")
    print(f"  node failures          {outcome.num_failures:12d}, model loads {outcome.num_loads}")
    print(f"  fairness               {outcome.fairness:12.4f}")
    print(f"  decisions a second     {outcome.num_decisions / outcome.deciding_s:12.0f} ({outcome.num_decisions:,})")
    print(f"  events a second        {outcome.num_events / outcome.deciding_s:12.0f} ({outcome.num_events:,})")


def decisions() -> None:
    """Processor time of an event while 100 to 100,000 films wait, on 64 workers."""
    for number in (100, 1_000, 10_000, 100_000):
        machine, rendering, clock = FarmMachine(), [], 0.0
        films = films_of(number)
        for worker in range(64):
            machine.apply(ev.WorkerUp(worker=f"w{worker}", host=f"node-{worker // 8}"), clock)
        machine.apply(ev.FilmsAdded(films=tuple(films)), clock)
        actions = []
        for model, _ in KINDS:
            actions += machine.apply(ev.TextReady(run_id="night", model=model), clock)
        rendering = [action for action in actions if isinstance(action, ev.RenderSegment)]
        num_events = num_decisions = 0
        spent_s = 0.0
        gc.collect()
        while rendering and num_events < 3000:
            work = rendering.pop(0)
            clock += 1.0
            event: ev.Event = ev.SegmentDone(worker=work.worker, film=work.film, segment=work.segment, seconds=60.0)
            queue = [event]
            while queue:
                event = queue.pop()
                started = time.process_time()
                actions = machine.apply(event, clock)
                spent_s += time.process_time() - started
                num_events += 1
                for action in actions:
                    if isinstance(action, ev.RenderSegment):
                        num_decisions += 1
                        rendering.append(action)
                    elif isinstance(action, ev.FinishFilm):
                        num_decisions += 1
                        queue.append(ev.FilmPublished(worker=action.worker, film=action.film))
        print(
            f"{number:8,} films: {spent_s / num_events * 1e6:6.1f} us an event, "
            f"{num_decisions / spent_s:8,.0f} decisions a second ({num_events:,} events)"
        )


def tail() -> None:
    """8 films of 6 segments on 64 GPUs: fixed groups of 1 and of 2, elastic ones."""
    one = [
        QueuedFilm(
            run_id="r",
            job_id=f"f{i}",
            num_segments=6,
            model="df-14b-540p",
            segments_s=(540.0,) * 6,
            joined_sizes=(2, 4, 8),
            joined_speeds=(SPEED[2], SPEED[4], SPEED[8]),
        )
        for i in range(8)
    ]
    two = [
        replace(film, group_size=2, joined_sizes=(), joined_speeds=(), segments_s=(540.0 / SPEED[2],) * 6)
        for film in one
    ]
    farm = SimulatedFarm(num_gpus=64)
    rows = {
        "fixed groups of 1": simulate(one, farm, scheduling=SchedulingPolicy(elastic=False)),
        "fixed groups of 2": simulate(two, farm),
        "elastic groups": simulate(one, farm),
    }
    for name, outcome in rows.items():
        times = rows["fixed groups of 1"].makespan_s / outcome.makespan_s
        print(f"8 films on 64 GPUs, {name:18} {outcome.makespan_s:7.0f} s, {times:.2f} times as short as groups of 1")


def memory() -> None:
    """What the coordinator holds for 100,000 jobs: the machine's records and the run's book with every film's plan."""
    import pickle
    import tempfile

    number, batch = 100_000, 200
    spec = spec_of_preset("df-14b-540p")
    before = rss_bytes()
    with tempfile.TemporaryDirectory() as folder:
        spec = RunSpec(run_id="night", output=folder)
        record, machine = RunProgress(spec, open_store(folder)), FarmMachine()
        draw, templates = random.Random(1), {}
        for segments in range(SEGMENTS[0], SEGMENTS[1] + 1):
            job = RenderJob(
                job_id="film",
                prompt="any",
                num_frames=97 + 80 * (segments - 1),
                overlap_history=17,
                addnoise_condition=20,
            )
            plan = plan_film(job, spec)
            templates[segments] = (plan, tuple(segment_token_passes(plan, k) for k in range(plan.num_segments)))
        for start in range(0, number, batch):
            entries = []
            for i in range(start, start + batch):
                plan, costs = templates[draw.randint(*SEGMENTS)]
                prompt = f"a cat that walks along a wall, number {i}, in the light of the evening, film grain"
                plan = replace(plan, job=replace(plan.job, job_id=f"film-{i}", prompts=(prompt,)))
                task = FilmTask(run_id="night", output=folder, model=plan.spec.name, plan=plan)
                entries.append(FilmEntry(task=task, costs=costs, share="docs", texts=plan.texts))
            # As they arrive in the actor: copies that share nothing with other batches.
            arrived = pickle.loads(pickle.dumps(entries))
            for entry in arrived:
                record.add(entry)
            films = tuple(scheduled("night", entry, "cuda", clock_ahead_s=0.0) for entry in arrived)
            machine.apply(ev.FilmsAdded(films=films), 0.0)
        machine.apply(ev.TextReady(run_id="night", model=spec.name), 0.0)
        gc.collect()
        used = rss_bytes() - before
        print(f"{number:,} jobs, book and machine: {used / 2**20:,.0f} MiB, {used / number:,.0f} B a job")


def rss_bytes() -> int:
    """Memory of this process that is in RAM."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def main() -> None:
    parts = {"night": night, "decisions": decisions, "tail": tail, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*parts, []])
    options = parser.parse_args()
    print(f"machine   {platform.machine()}, {os.cpu_count()} cores; python {platform.python_version()}")
    print(f"load      {os.getloadavg()[0]:.1f} when it began")
    print(f"command   {' '.join(sys.orig_argv[1:])}")
    for name in options.parts or list(parts):
        parts[name]()


if __name__ == "__main__":
    main()
