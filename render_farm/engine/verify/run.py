"""Render the films with the engine, then with diffusers, and report for each film whether they agree.

One of the two is in memory at a time, so that a model that the engine renders can be verified on the same device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from render_farm.engine.bench.device import Cost, device_name, measured
from render_farm.engine.engine import Engine, load_engine
from render_farm.engine.verify.compare import Difference, compare
from render_farm.engine.verify.films import VerifyFilm, films
from render_farm.engine.verify.reference import Reference
from render_farm.engine.weights.part_sizes import read_sizes
from render_farm.engine.weights.resident_transformer import free_memory
from render_farm.errors import OutOfMemoryError, UsageError
from render_farm.planning import FilmPlan
from render_farm.planning.memory import estimate_memory

NUM_FRAMES = 37
NUM_STEPS = 8


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """What to verify, and how."""

    model: str
    against: bool = False
    """Compare with diffusers."""
    reference: Path | None = None
    """Another folder for diffusers to load; None: the model's own."""
    device: str = "auto"
    dtype: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int = NUM_FRAMES
    """Pixel frames of a window."""
    num_inference_steps: int = NUM_STEPS
    tasks: tuple[str, ...] = ()
    """Of those that the model serves; none named: all."""


@dataclass(frozen=True, kw_only=True)
class FilmResult:
    """One film."""

    name: str
    num_frames: int
    seconds: float
    peak_bytes: int | None
    estimated_bytes: int
    """The memory for rendering by the memory model, without a decoder running at the same time."""
    reference_seconds: float | None = None
    reference_peak_bytes: int | None = None
    difference: Difference | None = None
    note: str = ""
    passed: bool


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """All films."""

    model: str
    fingerprint: str
    device: str
    dtype: str
    against: str
    films: tuple[FilmResult, ...]

    @property
    def num_failed(self) -> int:
        return sum(not film.passed for film in self.films)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "films": [asdict(film) for film in self.films], "passed": not self.num_failed}


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    film: VerifyFilm
    plan: FilmPlan
    latents: Tensor
    frames: np.ndarray
    cost: Cost
    estimated_bytes: int


def run_verify(request: VerifyRequest, on_film: Callable[[str], None] | None = None) -> VerifyResult:
    """Render and compare. `on_film` is called with the name of what comes next. Raises `ModelError`, `UsageError`, and
    `OutOfMemoryError` when the engine's rendering does not fit; diffusers' that does not fit fails the film only."""
    report = on_film or (lambda what: None)
    engine = load_engine(request.model, device=request.device, dtype=request.dtype)
    defaults = engine.spec.defaults
    unserved = set(request.tasks) - set(engine.spec.tasks)
    if unserved:
        raise UsageError(
            f"--task: {request.model} does not serve {' or '.join(sorted(unserved))}",
            advice=f"it serves {', '.join(engine.spec.tasks)}",
        )
    chosen = list(
        films(
            engine.spec,
            tasks=request.tasks or engine.spec.tasks,
            num_frames=request.num_frames,
            num_inference_steps=request.num_inference_steps,
            height=request.height or defaults.height,
            width=request.width or defaults.width,
        )
    )
    plans = [engine.plan(film.job) for film in chosen]  # refusals before any work
    texts = list(dict.fromkeys(text for plan in plans for text in plan.texts))
    report(f"{request.model}: prompts")
    embeddings = engine.encode_prompts(texts)
    engine.drop_text_encoder()
    ours = []
    for film, plan in zip(chosen, plans, strict=True):
        report(f"{film.name}: render_farm")
        ours.append(_render(engine, film, plan, embeddings))
    device, dtype, spec, folder = engine.device, engine.dtype, engine.spec, engine.checkpoint.folder
    del engine
    free_memory(device)
    if not request.against:
        results = tuple(_alone(rendered) for rendered in ours)
    else:
        report("diffusers: loading")
        reference = Reference(request.reference or folder, spec, device=device, dtype=dtype)
        reference.encode(texts)
        results = tuple(_against(reference, ours, device, spec.dtype, report))
    return VerifyResult(
        model=request.model,
        fingerprint=spec.fingerprint,
        device=device_name(device),
        dtype=spec.dtype,
        against="diffusers" if request.against else "",
        films=results,
    )


def check_request(request: VerifyRequest) -> None:
    """Raise `UsageError` for what cannot work."""
    if request.num_frames % 20 != 17 or request.num_frames < NUM_FRAMES:
        raise UsageError(
            f"--num-frames: {request.num_frames} does not divide into blocks of 5 latent frames",
            advice="use 37, 57, 77 or 97 (17 more than a multiple of 20)",
        )
    if request.reference is not None and not request.against:
        raise UsageError("--reference is for --against diffusers")


def _render(engine: Engine, film: VerifyFilm, plan: FilmPlan, embeddings: dict[str, Tensor]) -> _Rendered:
    pieces: list[Tensor] = []

    def denoise() -> None:
        conditioning = engine.encode_conditioning(plan, film.inputs) if film.inputs else None
        for window in plan.windows:
            history = torch.cat(pieces, dim=2)[:, :, -window.num_history_frames :] if pieces else None
            pieces.append(
                engine.render_segment(
                    plan, window.index, history=history, embeddings=embeddings, conditioning=conditioning
                )
            )

    cost = measured(denoise, engine.device)
    latents = torch.cat(pieces, dim=2)
    estimate = estimate_memory(plan, read_sizes(engine.checkpoint.folder))
    return _Rendered(
        film=film,
        plan=plan,
        latents=latents,
        frames=np.stack(list(engine.decoder(plan).push(latents))),
        cost=cost,
        estimated_bytes=estimate.full_bytes - estimate.decoding_bytes,
    )


def _render_reference(reference: Reference, rendered: _Rendered, found: list[Tensor]) -> None:
    found.append(reference.render(rendered.plan, rendered.film.inputs))


def _alone(rendered: _Rendered, note: str = "") -> FilmResult:
    """Without a reference, a film must at least show something. The engine has checked that it is made of numbers."""
    shows = float(rendered.frames.std()) > 0
    reason = "" if shows else "every pixel is the same"
    return FilmResult(
        name=rendered.film.name,
        num_frames=len(rendered.frames),
        seconds=rendered.cost.seconds,
        peak_bytes=rendered.cost.peak_bytes,
        estimated_bytes=rendered.estimated_bytes,
        note=reason or note,
        passed=shows,
    )


def _against(
    reference: Reference,
    ours: Iterable[_Rendered],
    device: torch.device,
    dtype: str,
    report: Callable[[str], None],
) -> Iterable[FilmResult]:
    for rendered in ours:
        film = rendered.film
        if film.without_reference:
            yield _alone(rendered, f"not compared: {film.without_reference}")
            continue
        report(f"{film.name}: diffusers")
        found: list[Tensor] = []
        work = partial(_render_reference, reference, rendered, found)
        try:
            cost = measured(work, device)
            frames = reference.decode(found[0])
        except (torch.OutOfMemoryError, OutOfMemoryError) as error:
            first = str(error).splitlines()[0]
            yield FilmResult(**{**asdict(_alone(rendered)), "passed": False, "note": f"diffusers: {first}"})
            continue
        difference = compare(
            rendered.latents,
            found[0],
            rendered.frames,
            frames[rendered.plan.num_repeated_frames :],
            device_type=device.type,
            dtype=dtype,
        )
        yield FilmResult(
            name=film.name,
            num_frames=len(rendered.frames),
            seconds=rendered.cost.seconds,
            peak_bytes=rendered.cost.peak_bytes,
            estimated_bytes=rendered.estimated_bytes,
            reference_seconds=cost.seconds,
            reference_peak_bytes=cost.peak_bytes,
            difference=difference,
            passed=difference.passed,
        )
