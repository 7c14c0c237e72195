"""The parts of `python -m tests.gpu`: each measures one thing and returns what it found."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from render_farm.engine import StreamingDecoder
from render_farm.engine.bench.cases import SHAPES, random_engine
from render_farm.engine.bench.device import matrix_rate, measured
from render_farm.engine.bench.run import BenchRequest, _embeddings, _job, run_bench
from render_farm.engine.decoding.turns import DecodingTurns
from render_farm.engine.options import EngineOptions
from render_farm.engine.transformer.attention_backends import BACKENDS
from render_farm.engine.weights.vae_convolution import copy_once
from render_farm.engine.weights.vae_residual_block import fuse_blocks, kernel_works
from render_farm.planning import FilmPlan
from render_farm.planning.memory import activation_bytes, weight_bytes, window_cache_bytes
from render_farm.planning.model_sizes import ModelSizes, TransformerSizes
from render_farm.planning.roofline import H100, predicted_step, segment_work

Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where to measure, and what."""

    device: torch.device
    shape: str

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.is_gpu else torch.float32

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()


def machine(here: Machine) -> Found:
    found: Found = {"torch": torch.__version__, "matrix_tflops": _tera(matrix_rate(here.device, here.dtype))}
    if here.is_gpu:
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "total_gb": torch.cuda.get_device_properties(0).total_memory / 1e9,
            "cudnn": torch.backends.cudnn.version(),
            "driver": torch.cuda.driver_version() if hasattr(torch.cuda, "driver_version") else None,
        }
    return found


def attention(here: Machine) -> Found:
    """64 queries against all keys in float64, and the time of all queries."""
    config, tokens = SHAPES[here.shape].config, 51_000 if here.is_gpu else 512
    heads, dim = config["num_attention_heads"], config["attention_head_dim"]
    query, key, value = (torch.randn(1, tokens, heads, dim, device=here.device, dtype=here.dtype) for _ in range(3))
    scores = query[:, -64:].double().transpose(1, 2) @ key.double().permute(0, 2, 3, 1) * dim**-0.5
    exact, lse = (scores.softmax(-1) @ value.double().transpose(1, 2)).transpose(1, 2), scores.logsumexp(-1)
    found: Found = {}
    for name, spec in BACKENDS.items():
        if here.device.type not in spec.devices or here.dtype not in spec.dtypes or spec.last_resort:
            continue
        try:
            backend, seconds = spec.make(), []
            for _ in range(4):
                here.wait()
                started = time.perf_counter()
                out = backend.attend(query, key, value)
                here.wait()
                seconds.append(time.perf_counter() - started)
            _, own_lse = backend.attend_with_lse(query, key, value)
            found[name] = {
                "tflops": _tera(4 * tokens**2 * heads * dim / statistics.median(seconds[1:])),
                "first_s": seconds[0],
                "error": float((out[:, -64:] - exact).abs().max()),
                "lse_error": float((own_lse[..., -64:] - lse).abs().max()),
                "same_bits": torch.equal(out, backend.attend(query, key, value)),
            }
        except (RuntimeError, ImportError, OSError, NotImplementedError, TypeError, ValueError) as error:
            found[name] = str(error).partition("\n")[0][:120]
    return found


def against_diffusers(mode: str) -> Callable[[Machine], Found]:
    """A few steps of a window by both, on the same weights."""

    def part(here: Machine) -> Found:
        steps = 2 if mode == "sync" else 3
        request = BenchRequest(
            shape=here.shape, mode=mode, against="diffusers", steps=steps, device=here.device.type, ar_step=1
        )
        result = run_bench(request)
        assert result.reference is not None
        engine = random_engine(here.shape, device=here.device, dtype=here.dtype, options=EngineOptions())
        plan = engine.plan(_job(request, engine, mode, steps))
        sizes = TransformerSizes.from_config(engine.transformer.config)
        keeps = result.decisions["kv_cache"]["keeps"]
        memory = weight_bytes(sizes, here.dtype.itemsize) + activation_bytes(plan, 0, sizes, with_cache=keeps)
        memory += window_cache_bytes(plan, 0, sizes) if keeps else 0
        return {
            "s_a_step": result.ours.seconds / result.ours.passes,
            "predicted_s_a_step": _predicted_s(plan, sizes, keeps),
            "tflops": result.ours.teraflops,
            "ratio": result.ratio,
            "largest_difference": result.largest_difference,
            "attention": result.decisions["attention"]["name"],
            "kv_cache": keeps,
            "peak_gb": (result.ours.peak_bytes or 0) / 1e9,
            "predicted_peak_gb": memory / 1e9,
        }

    return part


def _predicted_s(plan: FilmPlan, sizes: TransformerSizes, keeps: bool) -> float:
    model = ModelSizes(transformer=sizes)
    return predicted_step(segment_work(plan, 0, model, with_cache=keeps), model, H100).total_s


class _Film:
    """A window with random weights, some steps long."""

    def __init__(self, here: Machine, *, steps: int, compiles: str = "auto", shape: str | None = None) -> None:
        options = EngineOptions(compile=compiles)  # type: ignore[arg-type]
        self.engine = random_engine(shape or here.shape, device=here.device, dtype=here.dtype, options=options)
        request = BenchRequest(shape=shape or here.shape, mode="sync")
        self.plan = self.engine.plan(_job(request, self.engine, "sync", steps))
        self.embeddings = _embeddings(self.engine)
        self.steps = steps

    def render(self, memory: str = "resident") -> Tensor:
        from dataclasses import replace

        plan = replace(self.plan, job=replace(self.plan.job, memory=memory))
        with torch.inference_mode():
            return self.engine.render_segment(plan, 0, history=None, embeddings=self.embeddings)

    def step_s(self, memory: str = "resident") -> tuple[float, int | None]:
        """Seconds a step and the peak, after a first time that prepares."""
        self.render(memory)
        cost = measured(lambda: self.render(memory), self.engine.device)
        return cost.seconds / self.steps, cost.peak_bytes


def compiled(here: Machine) -> Found:
    if not here.is_gpu:
        return {"skipped": "compiling takes minutes on a CPU"}
    films, found = {}, {}
    for name in ("on", "off"):
        film = _Film(here, steps=2, compiles=name)
        started = time.perf_counter()
        films[name] = film.render()
        found[f"first_{name}_s"] = time.perf_counter() - started
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found[f"{name}_s_a_step"] = film.step_s()[0]
        found[f"{name}_graphs_again"] = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    difference = (films["on"] - films["off"]).abs()
    return {**found, "largest_difference": float(difference.max()), "mean_difference": float(difference.mean())}


def _vae(here: Machine) -> AutoencoderKLWan:
    small = {} if here.is_gpu else {"base_dim": 8}
    torch.manual_seed(0)
    with torch.device(here.device):
        return AutoencoderKLWan(**small).eval().requires_grad_(False)


def _latents(here: Machine, count: int) -> Tensor:
    size = SHAPES[here.shape]
    return torch.randn(1, 16, count, size.height // 8, size.width // 8, generator=torch.Generator().manual_seed(0))


def decoding(here: Machine) -> Found:
    """In float32, in TF32, and in what would be faster but gives other pixels."""
    found: Found = {}
    exact: Tensor | None = None
    for name in ("float32", "tf32", "tf32 fused", "tf32 tuned", "tf32 channels last", "bfloat16"):
        vae = _vae(here)
        torch.backends.cudnn.allow_tf32 = name != "float32"
        torch.backends.cudnn.benchmark = name == "tf32 tuned"
        if name == "bfloat16":
            vae = vae.bfloat16()
        fused = name == "tf32 fused" and kernel_works(torch.device(here.device))
        if fused:
            copy_once(vae)
            fuse_blocks(vae)
        if name == "tf32 channels last":
            for weight in (parameter for parameter in vae.parameters() if parameter.dim() == 5):
                weight.data = weight.contiguous(memory_format=torch.channels_last_3d)
        if here.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        decoder, seconds, frames = StreamingDecoder(vae), [], []
        for latent in _latents(here, 3).split(1, dim=2):
            started = time.perf_counter()
            frames += list(decoder.push(latent))
            seconds.append(time.perf_counter() - started)
        film = torch.stack([torch.from_numpy(frame).int() for frame in frames])
        exact = film if exact is None else exact
        found[name] = {
            "s_a_latent_frame": statistics.median(seconds[1:]),
            "levels_apart": int((film - exact).abs().max()),
            **({"kernel_runs": fused} if name == "tf32 fused" else {}),
            **({"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if here.is_gpu else {}),
        }
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = True, False
    return found


def parking(here: Machine) -> Found:
    """Two films in turns. The features of the one that waits are in the host's memory."""
    vae, latents = _vae(here), _latents(here, 4).split(1, dim=2)
    alone, turns = StreamingDecoder(vae), DecodingTurns(here.device)
    taking_turns = [StreamingDecoder(vae, turns=turns) for _ in range(2)]
    same, seconds = True, {"alone": [0.0], "in_turns": [0.0]}
    for latent in latents:
        started = time.perf_counter()
        expected = list(alone.push(latent))
        seconds["alone"].append(time.perf_counter() - started)
        for decoder in taking_turns:
            started = time.perf_counter()
            frames = list(decoder.push(latent))
            seconds["in_turns"].append(time.perf_counter() - started)
            same &= all((one == other).all() for one, other in zip(frames, expected, strict=True))
    found = {f"{name}_s_a_latent_frame": statistics.median(times[2:]) for name, times in seconds.items()}
    return {**found, "same_frames": bool(same), **_pinned()}


def _pinned() -> Found:
    """Pinned host memory: what is in use, and what was taken for it."""
    if not torch.cuda.is_available():
        return {}
    stats = torch.cuda.host_memory_stats()
    names = {"pinned_gb": "active_bytes.current", "pinned_taken_gb": "allocated_bytes.current"}
    return {name: stats.get(key, 0) / 1e9 for name, key in names.items()}


def fp8(here: Machine) -> Found:
    """Whether products of float8 with a scale per row are worth a memory mode that computes in it."""
    if not here.is_gpu or torch.cuda.get_device_capability() < (9, 0):
        return {"skipped": "Hopper or later"}
    tokens, width, times = 51_000, 5120, 10
    states, weight = (torch.randn(size, width, device=here.device) for size in (tokens, width))
    given = [part.to(torch.float8_e4m3fn) for part in (states, weight)]
    scales = [torch.ones((size, 1), device=here.device) for size in (tokens, width)]

    def product() -> None:
        for _ in range(times):
            torch._scaled_mm(given[0], given[1].T, scales[0], scales[1].T, out_dtype=torch.bfloat16)

    product()
    rate = 2 * tokens * width**2 * times / measured(product, here.device).seconds
    return {"fp8_tflops": _tera(rate), "bfloat16_tflops": _tera(matrix_rate(here.device, here.dtype))}


def decoding_next_to_a_step(here: Machine) -> Found:
    film, vae = _Film(here, steps=2), _vae(here)
    alone_s, _ = film.step_s()
    found: Found = {"alone_s_a_step": alone_s}
    for name in ("own_stream", "denoisers_stream"):
        turns = DecodingTurns(here.device)
        if name == "denoisers_stream":
            turns._stream = None
        over, seconds = threading.Event(), []

        def decode(turns: DecodingTurns = turns, over: threading.Event = over, seconds: list[float] = seconds) -> None:
            decoder = StreamingDecoder(vae, turns=turns)
            while not over.is_set() and len(seconds) < 40:
                started = time.perf_counter()
                list(decoder.push(_latents(here, 1)))
                seconds.append(time.perf_counter() - started)

        thread = threading.Thread(target=decode)
        thread.start()
        step_s, _ = film.step_s()
        over.set()
        thread.join()
        found[name] = {"s_a_step": step_s, "s_a_latent_frame": statistics.median(seconds)}
    return found


def offloading(here: Machine) -> Found:
    film, found = _Film(here, steps=2, compiles="off"), {}
    for memory in ("resident", "offload_block", "offload_leaf"):
        step_s, peak_bytes = film.step_s(memory)
        found[memory] = {"s_a_step": step_s, "peak_gb": (peak_bytes or 0) / 1e9, **_pinned()}
    return found


def film(here: Machine) -> Found:
    """By the command line, in a process of its own: manifest, workers, decoding, MP4, checksums."""
    with tempfile.TemporaryDirectory() as output:
        started = time.perf_counter()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "render_farm.cli.main", "render", "--prompt", "a red circle", "--json"),
                *("--output", output, "--address", "local", "--workers", "1", "--device", here.device.type),
                *(() if here.is_gpu else ("--num-frames", "17")),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-400:]}")
        [document] = Path(output).glob("*/job.json")
        engine = json.loads(document.read_text())["segments"][0].get("engine", {})
        return {"s": time.perf_counter() - started, "state": json.loads(done.stdout)["state"], "engine": engine}


def large(here: Machine) -> Found:
    if not here.is_gpu or torch.cuda.get_device_properties(0).total_memory < 75e9:
        return {"skipped": "14B takes 80 GB"}
    film = _Film(here, steps=1, shape="14b-540p")
    step_s, peak_bytes = film.step_s()
    sizes = TransformerSizes.from_config(film.engine.transformer.config)
    memory = weight_bytes(sizes, 2) + activation_bytes(film.plan, 0, sizes)
    return {
        "s_a_step": step_s,
        "predicted_s_a_step": _predicted_s(film.plan, sizes, keeps=False),
        "peak_gb": (peak_bytes or 0) / 1e9,
        "predicted_peak_gb": memory / 1e9,
    }


PARTS: dict[str, Callable[[Machine], Found]] = {
    "machine": machine,
    "attention": attention,
    "sync": against_diffusers("sync"),
    "compiled": compiled,
    "decoding": decoding,
    "decoding_next_to_a_step": decoding_next_to_a_step,
    "film": film,
    "parking": parking,
    "offloading": offloading,
    "fp8": fp8,
    "large": large,
    "async": against_diffusers("async"),
    "full": against_diffusers("full"),
}
"""In the order in which they run: what decides most comes first."""


def _tera(rate: float) -> float:
    return rate / 1e12
