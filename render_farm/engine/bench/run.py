"""One measurement: a window by the engine and, if wanted, by a reference, in turns in this process.

The reference of an approximate mode renders the synchronous film that the mode stands for.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
from torch import Tensor

from render_farm.engine.bench.cases import APPROXIMATE, MODES, SHAPES, random_engine
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
_STEPS = {"sync": 2, "async": 12, "full": 12, "guidance": 4}
"""Synchronous steps all cost the same: two stand for any number, four for a film that is guided half-way."""
_STEPS_FOR_ONE = 4
"""A distilled film takes one step where the film that it stands for takes so many."""
REFERENCES = ("diffusers", "sync")


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure. Either `shape` (a name of `SHAPES`, random weights) or `model` (as `load_engine` takes it)."""

    shape: str = "small"
    model: str | None = None
    mode: str = "async"
    against: str | None = None
    """`diffusers`, `sync` (the engine's own synchronous film), or None: the engine alone."""
    pairs: int = 1
    """How often both render, in turns. The result has the medians."""
    steps: int | None = None
    """Inference steps; None: 12 of an asynchronous film, 2 of a synchronous one, 4 of one with guidance in part. A
    distilled film has those of its list."""
    reference_steps: int | None = None
    """Stop diffusers after this many of its passes and count the rest at the same cost each, because they do the same
    work. There is then no difference to compare."""
    ar_step: int | None = None
    device: str = "auto"
    dtype: str | None = None
    threads: int | None = None
    """On the CPU. None: as many as torch uses."""
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one of the two took for the window: medians, and the highest peak."""

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
    reference: Side | None = None
    ratio: float | None = None
    """Seconds of the reference over ours, the median of the pairs."""
    cpu_ratio: float | None = None
    """The same for the process's CPU seconds, which say more on a shared CPU."""
    cpu_ratios: tuple[float, ...] = ()
    """Of each pair, in order."""
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
    known = {"shape": tuple(SHAPES), "mode": tuple(MODES), "against": (*REFERENCES, None)}
    for name, values in known.items():
        if getattr(request, name) not in values:
            names = ", ".join(value for value in values if value)
            raise UsageError(f"--{name}: {getattr(request, name)!r} is not one of {names}")
    for name in ("pairs", "steps", "reference_steps", "threads"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}: {value} is less than 1")


def _run(request: BenchRequest, engine: Engine) -> BenchResult:
    is_distilled = request.mode == "distilled"
    steps = request.steps or _STEPS.get(request.mode)
    plan = engine.plan(_job(request, engine, request.mode, steps))
    steps = plan.job.num_inference_steps
    embeddings = _embeddings(engine)
    config = engine.transformer.config
    latents: list[Tensor | None] = [None, None]

    def render(what: FilmPlan) -> Tensor:
        return engine.render_segment(what, 0, history=None, embeddings=embeddings)

    def ours() -> None:
        latents[0] = render(plan)

    def operations(what: FilmPlan) -> float:
        return engine_operations(what, config, caches=engine.cache_plan(what, 0).keeps)

    sides = [_Timed(work=ours, passes=plan.schedule(0).num_rows, operations=operations(plan))]
    render(engine.plan(_job(request, engine, request.mode, 1)))  # the first time chooses attention and compiles
    if request.against is not None:
        mode = "sync" if request.against == "sync" or request.mode in APPROXIMATE else request.mode
        other = engine.plan(_job(request, engine, mode, steps * _STEPS_FOR_ONE if is_distilled else steps))
        rows = other.schedule(0).num_rows
        counted = min(request.reference_steps or rows, rows) if request.against == "diffusers" else rows

        def by_diffusers(num_steps: int | None) -> Tensor | None:
            return render_with_diffusers(engine.transformer, other, embeddings, num_steps=num_steps)

        def theirs() -> None:
            latents[1] = (
                render(other) if request.against == "sync" else by_diffusers(counted if counted < rows else None)
            )

        work = operations(other) if request.against == "sync" else dense_operations(other, config, num_steps=rows)
        sides.append(_Timed(work=theirs, passes=rows, operations=work, factor=rows / counted))
        if request.against == "diffusers":
            by_diffusers(1)
    costs = [[measured(side.work, engine.device) for side in sides] for _ in range(request.pairs)]
    measured_sides = [side.result(taken) for side, taken in zip(sides, zip(*costs, strict=True), strict=True)]
    ratios, cpu_ratios = (
        [getattr(pair[1], name) * sides[1].factor / getattr(pair[0], name) for pair in costs if len(pair) == 2]
        for name in ("seconds", "cpu_s")
    )
    own, others = latents
    difference = None
    if own is not None and others is not None and request.against != "sync" and request.mode not in APPROXIMATE:
        difference = (own - others.float().cpu()).abs().max().item()
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
        ours=measured_sides[0],
        reference=measured_sides[1] if len(sides) > 1 else None,
        ratio=round(median(ratios), 3) if ratios else None,
        cpu_ratio=round(median(cpu_ratios), 3) if ratios else None,
        cpu_ratios=tuple(round(ratio, 3) for ratio in cpu_ratios),
        largest_difference=difference,
    )


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """Something that is measured: the whole of it, or a part that stands for `factor` times as much."""

    work: Callable[[], None]
    passes: int
    operations: float
    factor: float = 1.0

    def result(self, costs: Sequence[Cost]) -> Side:
        seconds = median(cost.seconds for cost in costs) * self.factor
        peaks = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
        return Side(
            passes=self.passes,
            seconds=round(seconds, 4),
            cpu_s=round(median(cost.cpu_s for cost in costs) * self.factor, 4),
            teraflops=round(self.operations / seconds / 1e12, 3),
            peak_bytes=max(peaks, default=None),
            extrapolated=self.factor > 1,
        )


def _job(request: BenchRequest, engine: Engine, mode: str, steps: int | None) -> RenderJob:
    columns: dict[str, Any] = {"guidance_scale": 6.0, "flow_shift": 8.0, **MODES[mode]}
    if request.model is None:
        shape = SHAPES[request.shape]
        height, width, num_frames = shape.height, shape.width, shape.frames_of(mode)
    else:
        height, width, num_frames = engine.spec.defaults.height, engine.spec.defaults.width, 97
    if request.ar_step is not None and columns["causal_block_size"] > 1:
        columns["ar_step"] = request.ar_step
    if "sampler" not in columns:
        columns["num_inference_steps"] = steps
    return RenderJob(
        job_id="bench",
        prompt=_PROMPT,
        negative_prompt=_NEGATIVE,
        num_frames=num_frames,
        base_num_frames=num_frames,
        height=height,
        width=width,
        **columns,
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
        "guided": job.guided,
        "against": request.against,
        "pairs": request.pairs,
        "num_frames": job.num_frames,
        "height": job.height,
        "width": job.width,
        "num_tokens": plan.windows[0].num_latent_frames * plan.tokens_per_frame,
        "dtype": str(engine.dtype).removeprefix("torch."),
    }
