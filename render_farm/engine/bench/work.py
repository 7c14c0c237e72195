"""How many floating-point operations a window is, of those that count: matrix products and attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from render_farm.engine.denoising.rows import window_spans
from render_farm.planning import FilmPlan

TEXT_TOKENS = 512


def engine_operations(plan: FilmPlan, config: Mapping[str, Any], *, caches: bool) -> float:
    """Those of the engine for the first window: blocks that have not started or are cached are left out."""
    total = _text_operations(config, 2 if plan.job.guided else 1)  # once a window
    for span, branches in zip(window_spans(plan.schedule(0), caches=caches), plan.num_branches(0), strict=True):
        groups = [(end - first, keys) for first, end, keys in span.query_groups(span.start)]
        total += _operations(span.num_frames, groups, plan.tokens_per_frame, config, branches, shares_first=True)
    return total


def dense_operations(plan: FilmPlan, config: Mapping[str, Any], *, num_steps: int) -> float:
    """Those of `num_steps` passes over all frames in which every token's score with every other is computed."""
    frames = plan.windows[0].num_latent_frames
    branches = 2 if plan.job.guided else 1
    groups = [(frames, frames)]
    own = _operations(frames, groups, plan.tokens_per_frame, config, branches, shares_first=False)
    return num_steps * (own + _text_operations(config, branches))


def _text_operations(config: Mapping[str, Any], branches: int) -> float:
    """Of the keys and values of the prompts, padded."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return float(4.0 * TEXT_TOKENS * width**2 * config["num_layers"] * branches)


def _operations(
    num_frames: int,
    groups: list[tuple[int, int]],
    tokens_per_frame: int,
    config: Mapping[str, Any],
    branches: int,
    *,
    shares_first: bool,
) -> float:
    """Of one pass; `groups` are (frames of queries, frames of keys). With `shares_first` the branches share the first
    layer's self-attention."""
    layers, width = config["num_layers"], config["num_attention_heads"] * config["attention_head_dim"]
    tokens = num_frames * tokens_per_frame
    own = 8 * tokens * width**2 + sum(4 * queries * keys * tokens_per_frame**2 * width for queries, keys in groups)
    rest = 4 * tokens * width**2 + 4 * tokens * TEXT_TOKENS * width + 4 * tokens * width * config["ffn_dim"]
    passes = layers * branches - (branches - 1 if shares_first else 0)
    return float(passes * own + layers * branches * rest)
