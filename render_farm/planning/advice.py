"""What the makers of the models and the people who use them advise against: said of a job, never refused."""

from __future__ import annotations

from collections.abc import Iterator

from render_farm.models import CAUSAL, DISTILLED, PRESETS
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import ResolvedJob


def advice(job: ResolvedJob, spec: ModelSpec) -> Iterator[str]:
    """What is said of `job` whatever its length: `plan` and `manifest check` show it, `job.json` keeps it."""
    if is_published_forcing(spec) and job.causal_block_size > 1 and job.block_attention == CAUSAL:
        yield (
            f"block_attention causal with {spec.name}: its makers say that the released models do not support causal "
            "attention, and users report broken pictures; full is what they publish, and ar_step 0 with "
            "causal_block_size 1 is faster than full"
        )
    if job.sampler == DISTILLED:
        yield from _of_few_steps(job, spec)


def _of_few_steps(job: ResolvedJob, spec: ModelSpec) -> Iterator[str]:
    if not job.adapters:
        yield (
            f"sampler {DISTILLED} without a LoRA: unless {spec.name} was itself distilled, its pictures stay blurred "
            f"or fall apart in {len(job.step_list)} steps; name a LoRA that was distilled for it in loras"
        )
    if job.guided:
        yield (
            f"guidance_scale {job.guidance_scale:g} with sampler {DISTILLED}: distilled weights have guidance built "
            "in, so that more of it burns colours and contrast, and every step takes twice as long; 1 is usual"
        )
    if is_published_forcing(spec) and job.adapters:
        yield (
            f"sampler {DISTILLED} with {spec.name}: the LoRAs that are known to work were distilled for checkpoints "
            "without diffusion forcing (t2v-14b-*, i2v-14b-*); compare a few films first"
        )


def is_published_forcing(spec: ModelSpec) -> bool:
    """Whether these are the diffusion-forcing weights that Skywork released (`tiny` was trained here, a folder may hold
    anything)."""
    preset = PRESETS.get(spec.name)
    return preset is not None and preset.hub_id is not None and spec.renders_windows
