"""Jobs of the parity tests, and how close their latents must come to the reference's."""

from __future__ import annotations

from typing import Any

from render_farm import RenderJob
from tests.helpers.reference import HEIGHT, WIDTH

TOLERANCE = 1e-4


def make_job(**parameters: Any) -> RenderJob:
    """A small job; prompts are words that the test's tokenizer knows."""
    values = {
        "job_id": "parity",
        "prompt": "a red ball moves left over grass",
        "negative_prompt": "sand at night",
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": 4,
        "flow_shift": 3.0,
        "seed": 11,
    }
    return RenderJob(**(values | parameters))


LONG = {"base_num_frames": 37, "overlap_history": 17}  # windows of 10 latent frames that share 5
