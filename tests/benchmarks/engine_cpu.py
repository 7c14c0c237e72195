"""The engine against diffusers on a CPU: the same film by both, in one process, one after the other.

    python -m tests.benchmarks.engine_cpu [--threads 2] [--mode async sync] [--steps 12] [--skip-diffusers]

The model has random weights (speed does not depend on them): dim 256 (4 heads of 64), 4 layers; latents 25x32x32,
that is 6,400 tokens; guidance on. `async` is ar_step 2 with blocks of 5 latent frames. Text encoding and the VAE are
not timed. CPU seconds are those of the process; they tell more than wall seconds when other work runs beside.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
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
from tests.parity.reference import TEXT_DIM, build_pipeline, load_pipeline, render_reference

PROMPT = "a red ball moves left"
MODES = {"async": {"ar_step": 2, "causal_block_size": 5}, "sync": {"ar_step": 0, "causal_block_size": 1}}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One timed render."""

    wall_s: float
    cpu_s: float
    latents: Tensor


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
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--skip-diffusers", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {platform.processor() or platform.machine()}, {packages}")
    print(f"{args.threads} threads, {args.steps} steps, float32")
    with TemporaryDirectory() as folder:
        save_model(Path(folder))
        engine = load_engine(folder, device="cpu", dtype="float32")
        embeddings = engine.encode_prompts([PROMPT, ""])
        _ = engine.transformer  # loaded before the folder is gone
        pipeline = load_pipeline(Path(folder), torch.float32)
    print("| mode | ours: wall s | cpu s | diffusers: wall s | cpu s | ratio (cpu) | largest difference |")
    print("|---" * 7 + "|")
    for mode in args.mode:
        job = RenderJob(
            job_id=mode,
            prompt=PROMPT,
            num_frames=97,
            height=256,
            width=256,
            num_inference_steps=args.steps,
            seed=0,
            **MODES[mode],
        )
        print(compare(engine, None if args.skip_diffusers else pipeline, job, embeddings), flush=True)


def compare(engine: Engine, pipeline: Any, job: RenderJob, embeddings: dict[str, Tensor]) -> str:
    """Time both on one film; a row of the table."""
    plan = engine.plan(job)
    engine.render_segment(engine.plan(_warm_up(job)), 0, history=None, embeddings=embeddings)
    ours = timed(lambda: engine.render_segment(plan, 0, history=None, embeddings=embeddings))
    row = f"| {job.job_id} | {ours.wall_s:.1f} | {ours.cpu_s:.1f} |"
    if pipeline is None:
        return f"{row} | | | |"
    theirs = timed(lambda: render_reference(pipeline, plan))
    difference = (ours.latents - theirs.latents).abs().max().item()
    return f"{row} {theirs.wall_s:.1f} | {theirs.cpu_s:.1f} | {theirs.cpu_s / ours.cpu_s:.2f} | {difference:.1e} |"


def _warm_up(job: RenderJob) -> RenderJob:
    return RenderJob(job_id="warm", prompt=job.prompt, num_frames=17, height=64, width=64, num_inference_steps=1)


if __name__ == "__main__":
    main()
