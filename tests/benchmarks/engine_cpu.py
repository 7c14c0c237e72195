"""The engine against diffusers on a CPU: the same films by both, in one process, one after the other.

    python -m tests.benchmarks.engine_cpu [--threads 2] [--rows async sync ...] [--steps 12] [--size 256] [--save]

The model has random weights (speed does not depend on them): dim 256 (4 heads of 64), 4 layers; latents 25x32x32 a
window, that is 6,400 tokens; guidance on. Asynchronous films have ar_step 2 and blocks of 5 latent frames; long ones
257 frames in three windows that overlap by 17. Text encoding and the VAE are not timed. CPU seconds are those of the
process; they tell more than wall seconds when other work runs beside. All rows take about an hour of CPU time.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import SkyReelsV2Transformer3DModel
from torch import Tensor

from render_farm import RenderJob
from render_farm.engine import Engine, load_engine
from tests.helpers.reference import TEXT_DIM, build_pipeline, load_pipeline, render_reference

PROMPT = "a red ball moves left"
ASYNC = {"ar_step": 2, "causal_block_size": 5}
LONG = {"num_frames": 257, "base_num_frames": 97, "overlap_history": 17}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A film, and how many times faster than diffusers it must be; without `ratio` only the engine renders it."""

    film: dict[str, Any]
    ratio: float | None


ROWS = {
    "sync": Row(film={}, ratio=1.05),
    "async": Row(film=ASYNC, ratio=3.0),
    "long sync": Row(film=LONG, ratio=None),
    "long": Row(film={**LONG, **ASYNC}, ratio=3.0),
    "long, addnoise 20 once": Row(film={**LONG, **ASYNC, "addnoise_condition": 20, "prefix_noise": "once"}, ratio=3.0),
    "long, addnoise 20 per step": Row(film={**LONG, **ASYNC, "addnoise_condition": 20}, ratio=1.6),
}
MOST_DIFFERENCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Run:
    """One timed render."""

    wall_s: float
    cpu_s: float
    latents: Tensor


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A row that was run."""

    ours: Run
    theirs: Run | None


def timed(render: Callable[[], Tensor]) -> Run:
    wall, cpu = time.perf_counter(), time.process_time()
    latents = render()
    return Run(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu, latents=latents)


def save_model(folder: Path) -> None:
    pipeline = build_pipeline()
    torch.manual_seed(0)
    pipeline.transformer = SkyReelsV2Transformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        ffn_dim=1024,
        num_layers=4,
        freq_dim=256,
        text_dim=TEXT_DIM,
        inject_sample_info=True,
    )
    pipeline.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels; 256 is that of the bars")
    parser.add_argument("--save", action="store_true", help="write the lines to results/ too, under today's date")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = []
    for line in measure(args.rows, threads=args.threads, steps=args.steps, size=args.size):
        print(line, flush=True)
        lines.append(line)
    if args.save:
        path = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-engine-cpu-rows.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"written to {path}")


def measure(names: list[str], *, threads: int, steps: int, size: int) -> Iterator[str]:
    """The lines of a report, each as soon as it is known."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    yield f"# The engine against diffusers on a CPU, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    yield ""
    yield f"{processor()}, {threads} threads; Python {platform.python_version()}, {packages}."
    yield f"float32, {steps} steps, {size}x{size} pixels; `-h` describes the films."
    yield ""
    yield "| film | ours: wall s | CPU s | diffusers: wall s | CPU s | ratio: wall | CPU | bar | largest difference |"
    yield "|---" * 9 + "|"
    outcomes = {}
    with TemporaryDirectory() as folder:
        save_model(Path(folder))
        engine = load_engine(folder, device="cpu", dtype="float32")
        pipeline = load_pipeline(Path(folder), torch.float32)
        engine.render(
            RenderJob(job_id="warm", prompt=PROMPT, num_frames=17, height=64, width=64, num_inference_steps=1)
        )
        for name in names:
            film = {"num_frames": 97, **ROWS[name].film}
            job = RenderJob(
                job_id="bench", prompt=PROMPT, height=size, width=size, num_inference_steps=steps, seed=0, **film
            )
            outcomes[name] = run(engine, pipeline if ROWS[name].ratio else None, job)
            yield _line(name, outcomes[name])
    yield ""
    yield from comparisons(outcomes)


def run(engine: Engine, pipeline: Any, job: RenderJob) -> Outcome:
    """Render a film by the engine and, with a pipeline, by diffusers."""
    plan = engine.plan(job)
    ours = timed(lambda: engine.render(job).latents)
    return Outcome(ours=ours, theirs=timed(lambda: render_reference(pipeline, plan)) if pipeline else None)


def _line(name: str, outcome: Outcome) -> str:
    ours, theirs = outcome.ours, outcome.theirs
    line = f"| {name} | {ours.wall_s:.1f} | {ours.cpu_s:.1f} |"
    if theirs is None:
        return f"{line} | | | | | |"
    difference = (ours.latents - theirs.latents).abs().max().item()
    verdict = "" if difference <= MOST_DIFFERENCE else f" (more than {MOST_DIFFERENCE:g})"
    return (
        f"{line} {theirs.wall_s:.1f} | {theirs.cpu_s:.1f} | {theirs.wall_s / ours.wall_s:.2f} | "
        f"{theirs.cpu_s / ours.cpu_s:.2f} | {ROWS[name].ratio} | {difference:.1e}{verdict} |"
    )


def comparisons(outcomes: dict[str, Outcome]) -> Iterator[str]:
    """The bars between rows, of CPU seconds."""
    synchronous = outcomes["sync"].theirs if "sync" in outcomes else None
    if synchronous is not None and "async" in outcomes:
        ratio = synchronous.cpu_s / outcomes["async"].ours.cpu_s
        yield f"- ours asynchronous, against diffusers' synchronous run of the same film: {ratio:.2f} x (bar 1.2)"
    noised = outcomes.get("long, addnoise 20 per step")
    if noised is not None and "long sync" in outcomes:
        share = noised.ours.cpu_s / outcomes["long sync"].ours.cpu_s
        yield f"- ours asynchronous with addnoise 20 per step, of our synchronous time: {share:.2f} (bar 0.9)"


def processor() -> str:
    """The CPU's name where Linux says it."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
