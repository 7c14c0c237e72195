"""What the makers of the models and their users advise against. It is noted about a job, never refused."""

from __future__ import annotations

from collections.abc import Iterator

from render_farm.models import CAUSAL, DISTILLED, PRESETS, TINY
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import ResolvedJob
from render_farm.step_cache import guidance_share, parse_cache

MUCH_ADDNOISE = 60
MANY_SEGMENTS = 3


def advice(job: ResolvedJob, spec: ModelSpec) -> Iterator[str]:
    """Notes about `job` that do not depend on its length: `plan` and `manifest check` show it, `job.json` keeps it."""
    if is_published_forcing(spec) and job.causal_block_size > 1 and job.block_attention == CAUSAL:
        yield (
            f"block_attention causal with {spec.name}: its makers say that the released models do not support causal "
            "attention, and users report broken pictures; full is what they publish, and ar_step 0 with "
            "causal_block_size 1 is faster than full"
        )
    if not all(prompt.strip() for prompt in job.prompts):
        yield "prompt is blank: nothing says what the film should show"
    step_cache = parse_cache(job.cache)
    if step_cache and spec.renders_windows and spec.name != TINY.name:
        yield (
            f"cache {step_cache} with {spec.name}: the makers of SkyReels-V2 say that caches of this kind do not fit "
            "diffusion-forcing models; compare a few films with cache off first"
        )
    if guidance_share(job.cache) < 1 and not job.guided:
        yield f"cache {job.cache}: the share of guidance has no effect, because guidance is off"
    if job.addnoise_condition > MUCH_ADDNOISE:
        yield f"addnoise_condition {job.addnoise_condition:g} is large and may make windows differ; 20 is usual"
    if job.sampler == DISTILLED:
        yield from _of_few_steps(job, spec)


def on_length(job: ResolvedJob, num_segments: int) -> Iterator[str]:
    """Notes about a film that depend on its number of segments."""
    if num_segments > MANY_SEGMENTS and not job.addnoise_condition:
        yield (
            f"addnoise_condition 0 in a film of {num_segments} segments: small errors of each segment add up in the "
            "next; 20 is what the makers use for long films"
        )


def on_picture(job: ResolvedJob, column: str, width: int, height: int) -> Iterator[str]:
    """Notes about the picture in `column` that depend on its size in pixels."""
    if height > width and job.height < job.width:
        yield (
            f"{column}: is portrait ({width}x{height}) in a landscape film ({job.width}x{job.height}), so that fit "
            f"{job.fit} {_FITTED[job.fit]}; the makers' own program would make the film {job.height}x{job.width} "
            f"(width {job.height}, height {job.width})"
        )


_FITTED = {
    "crop": "cuts off its top and bottom",
    "stretch": "makes everything in it wide",
    "pad": "leaves broad bars at its sides",
}


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
