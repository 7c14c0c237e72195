"""What LoRAs cost: per step, and to load, put on, take off and change; beside the weights, and merged into them.

    python -m tests.benchmarks.lora_switch [--threads 1] [--device cuda] [--dtype bfloat16] [--heads 12 --head-dim 128
        --layers 30 --ffn 8960]      # the defaults are a small model; the second line's are the 1.3B checkpoint's

Random weights (speed does not depend on them). `merged` is the alternative that was not taken: W + scale * up @ down is
written over each weight, whose original is kept and copied back. CPU seconds are those of the process.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import SkyReelsV2Transformer3DModel
from torch import Tensor, nn

from render_farm import RenderJob
from render_farm.engine import Engine, load_engine
from render_farm.engine.lora.branches import WeightedLora
from render_farm.engine.lora.file import save_lora
from render_farm.engine.lora.linear_layers import linear_shapes_of
from tests.helpers.reference import TEXT_DIM, build_pipeline

MEBIBYTE = 1 << 20


def synchronize(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize()


def clock(engine: Engine) -> float:
    """Wall seconds on a GPU, CPU seconds on a CPU, which other work there may share."""
    synchronize(engine)
    return time.perf_counter() if engine.device.type == "cuda" else time.process_time()


def timed(engine: Engine, work: Callable[[], object], repeats: int = 5) -> float:
    """The median of `repeats` calls, after one that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        started = clock(engine)
        work()
        seconds.append(clock(engine) - started)
    return statistics.median(seconds)


def save_model(folder: Path, args: argparse.Namespace) -> None:
    pipeline = build_pipeline()
    torch.manual_seed(0)
    pipeline.transformer = SkyReelsV2Transformer3DModel(
        num_attention_heads=args.heads,
        attention_head_dim=args.head_dim,
        ffn_dim=args.ffn,
        num_layers=args.layers,
        freq_dim=256,
        text_dim=TEXT_DIM,
        inject_sample_info=True,
    )
    pipeline.save_pretrained(folder)


def write_lora(path: Path, folder: Path, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: shape for name, shape in linear_shapes_of(folder).items() if name.startswith("blocks.")}
    layers = {
        name: (torch.randn(rank, i, generator=generator) * i**-0.5, torch.randn(o, rank, generator=generator) * 0.05)
        for name, (o, i) in shapes.items()
    }
    save_lora(path, layers, alpha=rank)


class Merged:
    """The alternative: LoRAs written into the weights, whose originals are kept beside."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self.originals: dict[str, Tensor] = {}

    @torch.no_grad()
    def merge(self, weighted: WeightedLora) -> None:
        for name, part in weighted.lora.layers.items():
            weight = self.layers[name].weight
            self.originals[name] = weight.detach().clone()
            up, down = (t.to(weight.device, torch.float32) for t in (part.up, part.down))
            weight.copy_(weight.float() + part.scale * weighted.weight * up @ down)

    @torch.no_grad()
    def restore(self) -> None:
        for name, original in self.originals.items():
            self.layers[name].weight.copy_(original)
        self.originals = {}

    @torch.no_grad()
    def subtract(self, weighted: WeightedLora) -> float:
        """Take the LoRA off by subtraction instead (no originals): the largest drift of a weight."""
        largest = 0.0
        for name, part in weighted.lora.layers.items():
            weight = self.layers[name].weight
            up, down = (t.to(weight.device, torch.float32) for t in (part.up, part.down))
            undone = (weight.float() - part.scale * weighted.weight * up @ down).to(weight.dtype)
            largest = max(largest, float((undone.float() - self.originals[name].float()).abs().max()))
        return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--ffn", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{datetime.now(UTC):%Y-%m-%d} python {platform.python_version()} torch {torch.__version__} "
        f"diffusers {version('diffusers')} threads {args.threads} device {args.device} dtype {args.dtype}"
    )
    with TemporaryDirectory() as name:
        measure(Path(name), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    save_model(folder / "model", args)
    engine = load_engine(folder / "model", device=args.device, dtype=args.dtype)
    files = []
    for seed in range(4):
        files.append(folder / f"{seed}.safetensors")
        write_lora(files[-1], folder / "model", args.rank, seed)
    base_bytes = sum(p.numel() * p.element_size() for p in engine.transformer.parameters())

    def plan_with(*paths: Path):
        return engine.plan(
            RenderJob(
                job_id="a",
                prompt="a red ball",
                num_frames=args.frames,
                base_num_frames=max(args.frames, 37),
                height=args.height,
                width=args.width,
                num_inference_steps=args.steps,
                seed=1,
                loras=tuple({"path": str(path), "weight": 0.8} for path in paths),
            )
        )

    plans = {count: plan_with(*files[:count]) for count in (0, 1, 3)}
    embeddings = engine.encode_prompts(plans[0].texts)
    engine.drop_text_encoder()
    tokens = plans[0].windows[0].num_latent_frames * plans[0].tokens_per_frame
    print(
        f"model: dim {args.heads * args.head_dim}, {args.layers} layers, {base_bytes / MEBIBYTE:,.0f} MiB; {tokens} "
        f"tokens, guidance on; LoRA: rank {args.rank}, every linear layer of every block, "
        f"{files[0].stat().st_size / MEBIBYTE:,.1f} MiB"
    )
    loras = {count: engine.read_loras(plan) for count, plan in plans.items()}

    def forget() -> None:
        engine._loras.clear()

    def read() -> None:
        forget()
        engine.read_loras(plans[1])

    before = {name: tensor.clone() for name, tensor in engine.transformer.state_dict().items()}
    print(f"read and check the file: {timed(engine, read):.3f} s")
    one, other = loras[1], (WeightedLora(lora=loras[3][1].lora, weight=0.8),)

    def put_on_and_off() -> None:
        engine.adapters.use(engine.transformer, one)
        engine.adapters.remove()

    def change() -> None:
        engine.adapters.use(engine.transformer, one)
        engine.adapters.use(engine.transformer, other)

    engine.adapters.use(engine.transformer, one)
    num_bytes = engine.adapters.num_bytes
    print(f"put on and take off: {timed(engine, put_on_and_off):.4f} s; branches {num_bytes / MEBIBYTE:,.1f} MiB")
    print(f"change one for another: {timed(engine, change) / 2:.4f} s")
    engine.adapters.use(engine.transformer, one)
    print(f"take off: {timed_once(engine, engine.adapters.remove):.5f} s")

    def render(count: int) -> Tensor:
        return engine.render_segment(plans[count], 0, history=None, embeddings=embeddings, loras=loras[count])

    for count in (0, 1, 3, 0):
        render(count)
        seconds = timed(engine, lambda count=count: render(count), repeats=3)
        print(f"step with {count} LoRAs beside the weights: {seconds / args.steps:.4f} s")
    now = engine.transformer.state_dict()
    same = all(torch.equal(now[name].view(torch.uint8), before[name].view(torch.uint8)) for name in before)
    print(f"every tensor bit-identical afterwards: {same}")

    merged = Merged(engine.transformer)
    print(f"merged: merge {timed_once(engine, lambda: merged.merge(one[0])):.3f} s", end="; ")
    kept = sum(t.numel() * t.element_size() for t in merged.originals.values())
    print(f"originals kept {kept / MEBIBYTE:,.0f} MiB; drift if subtracted instead: {merged.subtract(one[0]):.2e}")
    seconds = timed(engine, lambda: render(0), repeats=3)
    print(f"merged: step {seconds / args.steps:.4f} s; restore {timed_once(engine, merged.restore):.3f} s")
    if args.dtype != "float32":
        _accuracy(engine, folder, plans[1], embeddings, one, merged)
    gc.collect()


def timed_once(engine: Engine, work: Callable[[], object]) -> float:
    started = clock(engine)
    work()
    return clock(engine) - started


def _accuracy(engine: Engine, folder: Path, plan, embeddings, loras, merged: Merged) -> None:
    """How far each way is from the same film in float32."""
    exact_engine = load_engine(folder / "model", device=str(engine.device), dtype="float32")
    wide = {text: tensor.float() for text, tensor in embeddings.items()}
    exact = exact_engine.render_segment(plan, 0, history=None, embeddings=wide, loras=loras)
    beside = engine.render_segment(plan, 0, history=None, embeddings=embeddings, loras=loras)
    engine.adapters.remove()
    merged.merge(loras[0])
    inside = engine.render_segment(plan_without(engine, plan), 0, history=None, embeddings=embeddings)
    merged.restore()
    for name, latents in (("beside the weights", beside), ("merged", inside)):
        print(f"root mean square distance from float32, {name}: {(latents - exact).pow(2).mean().sqrt():.3e}")


def plan_without(engine: Engine, plan):
    job = plan.job
    return engine.plan(
        RenderJob(
            job_id=job.job_id,
            prompt=job.prompts[0],
            num_frames=job.num_frames,
            base_num_frames=job.base_num_frames,
            height=job.height,
            width=job.width,
            num_inference_steps=job.num_inference_steps,
            seed=job.seed,
        )
    )


if __name__ == "__main__":
    main()
