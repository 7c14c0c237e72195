"""What `doctor --model` says: whether a job of a model fits the devices of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from render_farm.cli.doctor.checks import Finding, available_memory_bytes, broken, gib, note, ok
from render_farm.errors import RenderFarmError
from render_farm.job import RenderJob
from render_farm.models import PRESETS
from render_farm.planning import FilmPlan, ModelSpec, plan_film, spec_of_preset
from render_farm.planning.memory import MemoryEstimate, estimate_memory, usable_bytes
from render_farm.planning.model_sizes import ModelSizes, sizes_of_preset

_ADVICE = (
    "a smaller height, width or base_num_frames needs less, and so do the memory modes (column memory: weights "
    "offloaded or cast, VAE tiles)"
)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A job's need and the lines about it."""

    findings: tuple[Finding, ...]
    estimate: MemoryEstimate | None = None


def check_fit(model: str, parameters: dict[str, Any], gpus: list[dict[str, Any]]) -> Fit:
    """Hold a job of `model` with `parameters` (columns; others are the model's) against `gpus` (name, total bytes), or
    against this machine's memory where there is none."""
    name = f"model {model}"
    try:
        spec, sizes = _spec_and_sizes(model, "bfloat16" if gpus else "float32")
        plan = plan_film(_job(parameters), spec)
    except RenderFarmError as error:
        return Fit(findings=(broken(name, error.message, error.advice or "see above"),))
    estimate = estimate_memory(plan, sizes)
    findings = [ok(name, _described(plan, estimate))]
    if gpus:
        findings += [_on_gpu(f"{name} on GPU {i}", estimate, gpu) for i, gpu in enumerate(gpus)]
        findings.append(_in_host_memory(f"{name}, host memory", estimate, len(gpus)))
    else:
        findings.append(_on_cpu(f"{name} here", model, parameters, estimate))
    return Fit(findings=tuple(findings), estimate=estimate)


def _job(parameters: dict[str, Any]) -> RenderJob:
    uris: dict[str, tuple[str, ...]] = {"i2v": ("image",), "flf2v": ("image", "last_image"), "v2v": ("video",)}
    inputs: dict[str, Any] = {column: f"{column}.any" for column in uris.get(parameters.get("task", ""), ())}
    return RenderJob(job_id="doctor", prompt="any", **inputs, **parameters)


def _spec_and_sizes(model: str, dtype: str) -> tuple[ModelSpec, ModelSizes]:
    preset = PRESETS.get(model.lower())
    if preset is not None and preset.hub_id:
        return spec_of_preset(preset.name, dtype=dtype), sizes_of_preset(preset)
    from render_farm.engine.weights.checkpoint import read_checkpoint
    from render_farm.engine.weights.locate import locate_model
    from render_farm.engine.weights.part_sizes import read_sizes

    folder = locate_model(model)
    return read_checkpoint(folder, name=model, dtype=dtype).spec, read_sizes(folder)


def _described(plan: FilmPlan, estimate: MemoryEstimate) -> str:
    job = plan.job
    cache = f", and {gib(estimate.cache_bytes)} for finished blocks where there is room" if estimate.cache_bytes else ""
    return (
        f"{job.task} {job.width}x{job.height}, windows of {min(job.num_frames, job.base_num_frames)} frames, "
        f"{plan.spec.dtype}: {gib(estimate.least_bytes)} (transformer {gib(estimate.transformer_bytes)}, its largest "
        f"pass {gib(estimate.activation_bytes)}, decoding {gib(estimate.decoding_bytes)}; before: prompts "
        f"{gib(estimate.text_stage_bytes)}){cache}"
    )


def _on_gpu(name: str, estimate: MemoryEstimate, gpu: dict[str, Any]) -> Finding:
    total = int(gpu["total"])
    usable = usable_bytes(total)
    if estimate.least_bytes > usable:
        has = f"{gpu['name']} has {gib(total)}, of which {gib(usable)} are planned with"
        return broken(name, f"{has}, {gib(estimate.least_bytes)} are needed", _ADVICE)
    if estimate.full_bytes > usable:
        advice = "finished blocks are recomputed at every step; a render group or a smaller window makes room"
        return note(name, f"fits {gpu['name']} ({gib(total)}), without room to keep finished blocks", advice)
    return ok(name, f"fits {gpu['name']} ({gib(total)})")


def _in_host_memory(name: str, estimate: MemoryEstimate, num_workers: int) -> Finding:
    """What a worker per GPU parks there."""
    available, needed = available_memory_bytes(), num_workers * estimate.parked_bytes
    what = f"{gib(needed)} for the films that {num_workers} workers finish while they render"
    if available is not None and needed > available:
        return note(name, f"{what}, and {gib(available)} are free", "use fewer workers on this machine")
    return ok(name, what)


def _on_cpu(name: str, model: str, parameters: dict[str, Any], estimate: MemoryEstimate) -> Finding:
    available = available_memory_bytes()
    if available is not None and estimate.least_bytes <= available:
        return ok(name, f"fits this machine's memory ({gib(available)} free); there is no GPU")
    spec, sizes = _spec_and_sizes(model, "bfloat16")
    least = estimate_memory(plan_film(_job(parameters), spec), sizes).least_bytes
    here = "unknown memory" if available is None else f"{gib(available)} of memory free"
    return note(name, f"no GPU and {here}; it would fit a GPU of {gib(least)} (bfloat16)", _ADVICE)
