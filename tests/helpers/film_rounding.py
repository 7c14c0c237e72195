"""How far float32 rounding may move the latents of a film whose operations run in another order."""

from __future__ import annotations

from render_farm.engine import Engine
from render_farm.engine.decoding.video import Video
from tests.helpers.parity_jobs import TOLERANCE
from tests.helpers.rounding import likely_rounding


def rounding_of_film(engine: Engine, video: Video) -> float:
    """The bound of `likely_rounding` for a film, and never more than the contract with diffusers allows.

    The longest chain of additions goes through every step of every window, and in each step through every layer.
    """
    config, plan = engine.transformer.config, video.plan
    width = config.num_attention_heads * config.attention_head_dim
    num_tokens = plan.tokens_per_frame * max(window.num_latent_frames for window in plan.windows)
    num_words = max(len(text.split()) for text in plan.texts) + 2  # the end token, and all padding merged into one
    attention = 2 * width + config.attention_head_dim  # the projections on both sides, and the scores
    layer = (attention + num_tokens) + (attention + num_words) + (width + config.ffn_dim)
    num_steps = plan.job.num_inference_steps * plan.num_segments
    size = video.latents.abs().max().item()
    return min(TOLERANCE, likely_rounding(size, num_steps * config.num_layers * layer))
