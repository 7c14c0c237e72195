"""One measurement: a window by the engine and, if wanted, by diffusers, one after the other in this process."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from render_farm.engine.bench.cases import MODES, SHAPES, random_engine
from render_farm.engine.bench.device import Cost, device_name, matrix_rate, measured, num_threads
from render_farm.engine.bench.reference import render_with_diffusers
from render_farm.engine.bench.work import dense_operations, engine_operations
from render_farm.engine.device import resolve_device, resolve_dtype
from render_farm.engine.engine import Engine, load_engine
from render_farm.engine.options import EngineOptions
from render_farm.errors import UsageError
from render_farm.job import RenderJob
from render_farm.planning import FilmPlan

_PROMPT, _NEGATIVE = "a", "b"
_USED_TOKENS = 60
"""Of the 512 that a prompt is padded to."""
_STEPS = {"sync": 2, "async": 12}
"""Synchronous steps all cost the same: two stand for any number."""


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure. Either `shape` (a name of `SHAPES`, random weights) or `model` (as `load_engine` takes it)."""

    shape: str = "small"
    model: str | None = None
    mode: str = "async"
    against: str | None = None
    """`diffusers`, or None: the engine alone."""
    steps: int | None = None
    """Inference steps; None: 12 of an asynchronous film, 2 of a synchronous one."""
    reference_steps: int | None = None
    """Stop diffusers after so many of its passes and count the rest at the same cost each (they do the same work);
    there is no difference to compare then."""
    ar_step: int | None = None
    device: str = "auto"
    dtype: str | None = None
    threads: int | None = None
    """On the CPU; None: as many as torch takes."""
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one of the two took for the window."""

    passes: int
    """Forward steps of the schedule, both guidance branches in each."""
    seconds: float
    cpu_s: float
    teraflops: float
    """10**12 operations a second, counting those of its own matrix products and attention."""
    peak_bytes: int | None
    extrapolated: bool = False


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Everything a result needs to be read later."""

    at: str
    machine: str
    software: dict[str, str]
    what: dict[str, Any]
    """Model, film, mode, dtype."""
    matrix_teraflops: float
    """Of a large matrix product in the same dtype on this device."""
    decisions: dict[str, Any]
    """What the engine chose (see `Engine.decisions`)."""
    ours: Side
    diffusers: Side | None = None
    ratio: float | None = None
    """Seconds of diffusers over ours."""
    cpu_ratio: float | None = None
    """The same of the process's CPU seconds; tells more on a CPU that others use too."""
    largest_difference: float | None = None
    """Between both latents, whose values are about 1."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_bench(request: BenchRequest) -> BenchResult:
    """Measure. Raises `UsageError` for what cannot be measured here."""
    _check(request)
    device = resolve_device(request.device)
    dtype = resolve_dtype(request.dtype, device)
    with num_threads(request.threads), torch.inference_mode():
        if request.model is not None:
            engine = load_engine(
                request.model, device=request.device, dtype=dtype, with_text_encoder=False, options=request.options
            )
        else:
            engine = random_engine(request.shape, device=device, dtype=dtype, options=request.options)
        return _run(request, engine)


def _check(request: BenchRequest) -> None:
    known = {"shape": tuple(SHAPES), "mode": tuple(MODES), "against": ("diffusers", None)}
    for name, values in known.items():
        if getattr(request, name) not in values:
            names = ", ".join(value for value in values if value)
            raise UsageError(f"--{name}: {getattr(request, name)!r} is not one of {names}")
    for name in ("steps", "reference_steps", "threads"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}: {value} is less than 1")


def _run(request: BenchRequest, engine: Engine) -> BenchResult:
    plan = engine.plan(_job(request, engine, request.steps or _STEPS[request.mode]))
    brief = engine.plan(_job(request, engine, 1))
    embeddings = _embeddings(engine)
    config, caches = engine.transformer.config, engine.cache_plan(plan, 0).keeps

    latents: dict[str, Tensor | None] = {}

    def ours(what: FilmPlan) -> None:
        latents["ours"] = engine.render_segment(what, 0, history=None, embeddings=embeddings)

    def theirs(what: FilmPlan, num_steps: int | None) -> None:
        latents["theirs"] = render_with_diffusers(engine.transformer, what, embeddings, num_steps=num_steps)

    ours(brief)
    cost = measured(lambda: ours(plan), engine.device)
    num_rows = plan.schedule(0).num_rows
    own = _side(cost, num_rows, engine_operations(plan, config, caches=caches))
    other = difference = None
    if request.against:
        counted = min(request.reference_steps or num_rows, num_rows)
        theirs(brief, 1)
        cost = measured(lambda: theirs(plan, counted if counted < num_rows else None), engine.device)
        operations = dense_operations(plan, config, num_steps=num_rows)
        other = _side(cost, num_rows, operations, factor=num_rows / counted)
        if latents["theirs"] is not None and latents["ours"] is not None:
            difference = (latents["ours"] - latents["theirs"].float().cpu()).abs().max().item()
    return BenchResult(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=device_name(engine.device),
        software={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "diffusers", "transformers")},
        },
        what=_described(request, engine, plan),
        matrix_teraflops=round(matrix_rate(engine.device, engine.dtype) / 1e12, 3),
        decisions=engine.decisions(plan, 0),
        ours=own,
        diffusers=other,
        ratio=None if other is None else round(other.seconds / own.seconds, 3),
        cpu_ratio=None if other is None else round(other.cpu_s / own.cpu_s, 3),
        largest_difference=difference,
    )


def _side(cost: Cost, passes: int, operations: float, *, factor: float = 1.0) -> Side:
    return Side(
        passes=passes,
        seconds=round(cost.seconds * factor, 4),
        cpu_s=round(cost.cpu_s * factor, 4),
        teraflops=round(operations / (cost.seconds * factor) / 1e12, 3),
        peak_bytes=cost.peak_bytes,
        extrapolated=factor > 1,
    )


def _job(request: BenchRequest, engine: Engine, steps: int) -> RenderJob:
    ar_step, block_size = MODES[request.mode]
    if request.model is None:
        shape = SHAPES[request.shape]
        height, width, num_frames = shape.height, shape.width, shape.num_frames[request.mode]
    else:
        height, width, num_frames = engine.spec.defaults.height, engine.spec.defaults.width, 97
    if request.ar_step is not None and block_size > 1:
        ar_step = request.ar_step
    return RenderJob(
        job_id="bench",
        prompt=_PROMPT,
        negative_prompt=_NEGATIVE,
        num_inference_steps=steps,
        num_frames=num_frames,
        base_num_frames=num_frames,
        height=height,
        width=width,
        ar_step=ar_step,
        causal_block_size=block_size,
        guidance_scale=6.0,
        flow_shift=8.0,
        seed=0,
    )


def _embeddings(engine: Engine) -> dict[str, Tensor]:
    """Random ones, as long as a usual prompt: only their length matters to speed."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for text in (_PROMPT, _NEGATIVE):
        found[text] = torch.randn((512, engine.transformer.config["text_dim"]), generator=generator).to(engine.dtype)
        found[text][_USED_TOKENS:] = 0
    return found


def _described(request: BenchRequest, engine: Engine, plan: FilmPlan) -> dict[str, Any]:
    job, config = plan.job, engine.transformer.config
    return {
        "model": request.model or f"{request.shape}, random weights",
        "num_parameters": sum(parameter.numel() for parameter in engine.transformer.parameters()),
        "num_layers": config["num_layers"],
        "num_heads": config["num_attention_heads"],
        "head_dim": config["attention_head_dim"],
        "mode": request.mode,
        "ar_step": job.ar_step,
        "causal_block_size": job.causal_block_size,
        "steps": job.num_inference_steps,
        "num_frames": job.num_frames,
        "height": job.height,
        "width": job.width,
        "num_tokens": plan.windows[0].num_latent_frames * plan.tokens_per_frame,
        "dtype": str(engine.dtype).removeprefix("torch."),
    }
