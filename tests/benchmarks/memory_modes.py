"""What each memory mode takes and costs: peak memory, seconds a step, and how far its film is from the resident one.

    python -m tests.benchmarks.memory_modes [--shape 1.3b-540p] [--option resident offload_block ...] [--mode async]

Random weights (`render_farm.engine.bench.cases`), bfloat16 on CUDA and float32 on the CPU, guidance on; the first step
warms up; each option in a process of its own. VAE rows decode three latent frames with a random VAE of the
published size (`--vae-width` makes it smaller). Needs torch, transformers, diffusers and safetensors only. On a CPU the
default shape is `small`, and memory is what the process holds (VmRSS, VmHWM), Python and torch included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from render_farm import RenderJob
from render_farm.engine import StepProgress, StreamingDecoder
from render_farm.engine.bench.cases import MODES, SHAPES, random_engine
from render_farm.engine.bench.device import device_name
from render_farm.engine.options import EngineOptions
from render_farm.engine.weights.offloading import convert_weights, place
from render_farm.memory_mode import MemoryMode, parse_memory

OPTIONS = [
    "resident",
    "offload_block",
    "offload_leaf",
    "offload_disk",
    "resident+fp8_cast",
    "offload_block+fp8_cast",
    "resident+int8",
    "resident+fp8",
]
DECODING = ["vae", "vae_tiling"]
GIGABYTE = 1e9
TEXT_TOKENS = 512
NUM_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--shape", default="1.3b-540p" if on_gpu else "small", choices=SHAPES)
    parser.add_argument("--mode", default="async", choices=MODES)
    parser.add_argument("--option", nargs="+", default=[*OPTIONS, *DECODING], choices=[*OPTIONS, *DECODING])
    parser.add_argument("--vae-width", type=int, default=96, help="channels of the VAE's outermost layers")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.measure:
        decodes = args.measure in DECODING
        print(json.dumps(decoding(args) if decodes else denoising(args)))
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {device_name(torch.device(args.device))}; {packages}")
    print(f"shape {args.shape}, {args.mode}; python -m tests.benchmarks.memory_modes {' '.join(sys.argv[1:])}\n")
    print("| option | resident GB | peak GB | s a step (or latent frame) | largest difference | relative |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for option in args.option:
            print(row(option, Path(folder)), flush=True)


def row(option: str, folder: Path) -> str:
    command = [sys.executable, "-m", "tests.benchmarks.memory_modes", *sys.argv[1:], "--measure", option]
    done = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True)
    if done.returncode:
        return f"| {option} | failed: {done.stderr.strip().splitlines()[-1][:150]} | | | | |"
    found = json.loads(done.stdout.splitlines()[-1])
    reference = folder / ("vae.pt" if option in DECODING else "resident.pt")
    away = "| |"
    if reference.exists():
        exact, ours = torch.load(reference).float(), torch.load(folder / f"{option}.pt").float()
        relative = ((ours - exact).square().mean() / exact.square().mean()).sqrt()
        away = f"{(ours - exact).abs().max():.2g} | {relative:.2g} |"
    return (
        f"| {option} | {found['resident'] / GIGABYTE:.2f} | {found['peak'] / GIGABYTE:.2f} | {found['seconds']:.3g} | "
        f"{away}"
    )


def denoising(args: Any) -> dict[str, float]:
    device, mode = torch.device(args.device), parse_memory(args.measure)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = SHAPES[args.shape]
    engine = random_engine(args.shape, device=device, dtype=dtype, options=EngineOptions())
    move(engine, mode, device)
    plan = engine.plan(
        RenderJob(
            job_id="bench",
            prompt="a",
            num_frames=shape.frames_of(args.mode),
            base_num_frames=shape.frames_of(args.mode),
            height=shape.height,
            width=shape.width,
            num_inference_steps=max(NUM_STEPS, MODES[args.mode]["ar_step"] + 1),
            **MODES[args.mode],
            memory=args.measure,
            seed=0,
        )
    )
    generator = torch.Generator().manual_seed(1)
    embeddings = {
        text: torch.randn((TEXT_TOKENS, shape.config["text_dim"]), generator=generator) for text in plan.texts
    }
    resident, marks = held_bytes(device), []

    def on_step(progress: StepProgress) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        if progress.step == 1:
            reset_peak(device)
        marks.append(time.perf_counter())

    latents = engine.render_segment(plan, 0, history=None, embeddings=embeddings, on_step=on_step)
    torch.save(latents, args.folder / f"{args.measure}.pt")
    seconds = (marks[-1] - marks[0]) / (len(marks) - 1)
    return {"resident": resident, "peak": peak_bytes(device), "seconds": seconds}


def move(engine: Any, mode: MemoryMode, device: torch.device) -> None:
    """The engine's random transformer, through the host's memory, into `mode`."""
    model = engine.transformer
    torch.nn.Module.to(model, "cpu")
    convert_weights(model, mode.weights, device=device)
    place(model, mode.placement, device=device)
    engine._denoiser.give(model, replace(mode, vae_tiling=False))
    if device.type == "cuda":
        torch.cuda.empty_cache()


def decoding(args: Any) -> dict[str, float]:
    device, shape = torch.device(args.device), SHAPES[args.shape]
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=args.vae_width).to(device).eval()
    latents = torch.randn((1, 16, NUM_STEPS, shape.height // 8, shape.width // 8))
    decoder = StreamingDecoder(vae, tiling=args.measure == "vae_tiling")
    resident, marks, frames = held_bytes(device), [], []
    for latent in latents.split(1, dim=2):
        frames += [torch.from_numpy(frame) for frame in decoder.push(latent)]
        marks.append(time.perf_counter())
    torch.save(torch.stack(frames), args.folder / f"{args.measure}.pt")
    return {"resident": resident, "peak": peak_bytes(device), "seconds": (marks[-1] - marks[0]) / (len(marks) - 1)}


def held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else _status("VmRSS")


def peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def reset_peak(device: torch.device) -> None:
    """Forget what loading and the first step took."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
