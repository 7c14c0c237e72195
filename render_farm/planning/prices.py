"""The cost of a film as its row asks for it, and of its cheaper relatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.models import DISTILLED
from render_farm.planning.cost import segment_token_passes
from render_farm.planning.film import FilmPlan, plan_film
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import ResolvedJob
from render_farm.planning.seconds import segments_seconds
from render_farm.step_cache import GUIDANCE, OFF, parse_cache

_ONE_WORKER: dict[str, Any] = {"ulysses": None, "ring": None, "cfg_parallel": None}
_HALF = f"{GUIDANCE}:0.5"


@dataclass(frozen=True, kw_only=True)
class ChoicePrice:
    """What a film or a relative of it costs."""

    name: str
    """`as asked`, or the columns that make the relative."""
    num_forwards: int
    """Passes of the transformer, each guidance branch counted."""
    at_most: bool
    """Whether a step cache may skip some of them. How many depends on the film."""
    gpu_s: float | None
    """Predicted seconds of denoising on one GPU. None: the model's size is not known."""


def prices(job: RenderJob, spec: ModelSpec) -> list[ChoicePrice]:
    """The price of `job`, which can be planned, then those of its relatives that cost less, the cheapest last."""
    alone = replace(job, **_ONE_WORKER)
    plan = plan_film(alone, spec)
    asked, others = _price("as asked", plan), []
    for name, columns in _relatives(plan.job):
        try:
            others.append(_price(name, plan_film(replace(alone, **columns), spec)))
        except InvalidJobError:
            continue  # such a film cannot be rendered
    cheaper = [price for price in others if _order(price) < _order(asked)]
    return [asked, *sorted(cheaper, key=_order, reverse=True)]


def _relatives(job: ResolvedJob) -> Iterator[tuple[str, dict[str, Any]]]:
    if job.ar_step or job.causal_block_size > 1:
        yield "synchronous: ar_step 0, causal_block_size 1", {"ar_step": 0, "causal_block_size": 1}
    if job.splits_branches:
        cache = _HALF if job.cache == OFF or job.cache.startswith(GUIDANCE) else f"{job.cache.split('+')[0]}+{_HALF}"
        yield f"guidance for half of the steps: cache {cache}", {"cache": cache}
    if job.sampler != DISTILLED:
        of_the_sampler = ("step_list", "num_inference_steps", "guidance_scale", "flow_shift")
        yield (
            f"few steps: sampler {DISTILLED} and a LoRA for it",
            {"sampler": DISTILLED, **dict.fromkeys(of_the_sampler)},
        )


def _price(name: str, plan: FilmPlan) -> ChoicePrice:
    segments = range(plan.num_segments)
    passes = [segment_token_passes(plan, segment) for segment in segments]
    return ChoicePrice(
        name=name,
        num_forwards=sum(sum(plan.num_branches(segment)) for segment in segments),
        at_most=parse_cache(plan.job.cache) is not None,
        gpu_s=float(f"{sum(segments_seconds(plan, passes, 'cuda')):.4g}") if plan.spec.num_heads else None,
    )


def _order(price: ChoicePrice) -> tuple[float, int]:
    return price.gpu_s or 0.0, price.num_forwards
