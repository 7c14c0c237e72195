"""Keys of segments: two segments with one key have the same latents, whatever films they are in.

A key is chained: it covers the segments before, because the last of their latents start the segment. What touches only
later segments, or only the pixels after denoising (`quality`, `fps` of most models, `keep_overlap`), is not in it. So a
film that changes keeps the keys of its beginning, and films with equal beginnings share them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from render_farm.drift_mode import parse_drift
from render_farm.memory_mode import WeightForm, parse_memory
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import ResolvedJob, segment_job
from render_farm.planning.windows import Window
from render_farm.step_cache import CacheKind, parse_cache

SCHEMA = "render_farm.segment/1"
"""Part of every key. A release that computes other latents from the same parameters changes it."""
_DIGITS = 32


def segment_keys(job: ResolvedJob, spec: ModelSpec, windows: Iterable[Window]) -> Iterator[str]:
    """A key of 32 hex digits for each of `windows`, the windows of the film in order. Computed as they are asked for.

    A take has the keys of its own film. As in the render key, weights and inputs that were read count by their content,
    not by their names.
    """
    key, shared, before = "", "", None
    for window in windows:
        own = segment_job(job, window.index)
        varying = own.seed, own.guidance_scale, own.flow_shift
        if varying != before:
            shared, before = _digest(_shared(own, spec)), varying
        key = _digest(["" if window.starts_take else key, shared, _own(own, window)])[:_DIGITS]
        yield key


def _digest(document: Any) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _shared(job: ResolvedJob, spec: ModelSpec) -> dict[str, Any]:
    """What touches every segment."""
    cache, weights = parse_cache(job.cache), parse_memory(job.memory).weights
    return {
        "schema": SCHEMA,
        "model": [spec.fingerprint, spec.dtype, spec.approximation],
        "loras": job.adapters,
        "weights": "" if weights is WeightForm.FULL else weights,
        "size": [job.height, job.width],
        "seed": job.seed,
        "guidance": [job.guidance_scale, job.negative_prompt] if job.guided else [],
        "steps": [job.sampler, job.num_inference_steps, job.step_list, job.flow_shift],
        "blocks": [job.ar_step, job.causal_block_size, job.block_attention if job.causal_block_size > 1 else ""],
        "cache": job.cache,
        "magnitudes": spec.magnitudes.to_dict() if cache and cache.kind is CacheKind.MAG and spec.magnitudes else {},
        "frame_rate": job.fps == _TRAINED_FPS if spec.sample_info else "",
    }


_TRAINED_FPS = 16
"""What models that are told the frame rate tell from all others."""


def _own(job: ResolvedJob, window: Window) -> dict[str, Any]:
    """What touches a segment and those after it."""
    noise = [job.addnoise_condition, job.prefix_noise] if window.num_prefix_frames and job.addnoise_condition else []
    restarted = window.stream_start != window.take_start
    return {
        "prompt": job.prompt_of(window.index),
        "frames": [window.num_latent_frames, window.num_prefix_frames, window.num_dropped_frames],
        "prefix_noise": noise,
        "inputs": _inputs(job, window) if window.needs_inputs else {},
        **({"stream": window.num_draws_before} if restarted else {}),
        **({} if window.starts_take or not parse_drift(job.drift) else {"drift": job.drift}),
    }


def _inputs(job: ResolvedJob, window: Window) -> dict[str, Any]:
    """What the window is given of the job's image, last_image or video, and how they become latents."""
    digests = dict(job.input_digests)
    is_first = window.num_input_frames > 0 or window.has_image_channels
    is_last = window.num_last_image_frames > 0 or window.has_image_channels
    shown = {"image": is_first, "video": is_first, "last_image": is_last}
    named = {name: digests.get(name, uri) for name, uri in job.inputs.items() if shown[name]}
    return {
        **named,
        "task": job.task,
        "fit": job.fit,
        "frames": [window.num_input_frames, window.num_last_image_frames],
        "fps": job.fps if "video" in named else 0,
        "vae_tiling": parse_memory(job.memory).vae_tiling,
    }
