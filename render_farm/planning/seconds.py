"""The time of a segment by arithmetic: the prior of `scheduling.costs`, which learns the real time.

A segment's token passes (`cost.py`) are multiplied by what a token takes in a pass over T tokens, the T of its whole
window: on a GPU as `roofline` has it for an H100, on a CPU by its operations, L (12 E^2 + 4 E F + 4 E (T + 512)).
Loading, decoding and storing are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from render_farm.models import FULL, PRESETS
from render_farm.planning.film import FilmPlan
from render_farm.planning.group_cost import CPU_NODE, TEXT_TOKENS
from render_farm.planning.roofline import H100

_HEAD_DIM, _NUM_LAYERS, _FFN_BY_WIDTH = 128, 40, 3.5
"""Of a model that is no preset."""


def segments_seconds(plan: FilmPlan, token_passes: Sequence[int], device: str) -> tuple[float, ...]:
    """Seconds of each segment on one worker of `device`; `token_passes` are those of `cost.segment_token_passes`. One
    tuple for all films of a shape."""
    tokens = tuple(window.num_seen_frames * plan.tokens_per_frame for window in plan.windows)
    return _seconds(plan.spec.name, plan.spec.num_heads, tokens, tuple(token_passes), device)


@lru_cache(maxsize=1024)
def _seconds(
    model: str, num_heads: int, window_tokens: tuple[int, ...], token_passes: tuple[int, ...], device: str
) -> tuple[float, ...]:
    preset = PRESETS.get(model)
    if preset is not None:
        width, num_layers, ffn = preset.num_heads * preset.head_dim, preset.num_layers, preset.ffn_dim
    else:
        width, num_layers = max(1, num_heads) * _HEAD_DIM, _NUM_LAYERS
        ffn = round(_FFN_BY_WIDTH * width)
    seconds = []
    for tokens, passes in zip(window_tokens, token_passes, strict=True):
        if device == "cuda":
            layer_s = H100.token_layer_s(width, ffn, tokens)
        else:
            operations = 12 * width**2 + 4 * width * ffn + 4 * width * (tokens + TEXT_TOKENS)
            layer_s = operations / CPU_NODE.operations_per_s
        seconds.append(passes * num_layers * layer_s)
    return tuple(seconds)


def cost_class(plan: FilmPlan) -> tuple[str, ...]:
    """What segments of a film are alike in, coarse to fine: model, size, mode of denoising."""
    job = plan.job
    mode = "synchronous"
    if job.ar_step:
        full = f", {job.block_attention}" if job.block_attention == FULL and job.causal_block_size > 1 else ""
        mode = f"ar {job.ar_step}, blocks {job.causal_block_size}{full}"
    return _cost_class(plan.spec.name, job.height, job.width, mode, job.cache, job.memory)


@lru_cache(maxsize=1024)
def _cost_class(model: str, height: int, width: int, mode: str, cache: str, memory: str) -> tuple[str, ...]:
    approximate = [value for value in (cache, memory) if value not in ("off", "auto")]
    return (model, f"{height}x{width}", ", ".join([mode, *approximate]))
