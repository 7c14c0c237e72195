"""How diffusers' pipelines are called for a film: `bench`, `verify` and the parity tests compare with them."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from render_farm.engine.conditioning.conditioning import Inputs
from render_farm.planning import FilmPlan

_OF_WINDOWS = ("overlap_history", "addnoise_condition", "base_num_frames", "ar_step", "causal_block_size", "fps")


def pipeline_arguments(plan: FilmPlan, inputs: Inputs | None = None) -> dict[str, Any]:
    """The arguments of the pipeline that renders the latents of `plan`, without its prompts."""
    job = plan.job
    names: tuple[str, ...] = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale")
    if plan.spec.renders_windows:
        names += _OF_WINDOWS
    return {
        **{name: getattr(job, name) for name in names},
        **_pictures(inputs or Inputs()),
        "generator": torch.Generator().manual_seed(job.seed),
        "output_type": "latent",
    }


def _pictures(inputs: Inputs) -> dict[str, Any]:
    """The pixels by the pipelines' names for them; a picture as it was before it was stretched, where that is given."""
    if inputs.video is not None:
        return {"video": [Image.fromarray(frame) for frame in inputs.video]}
    given = {
        "image": inputs.image if inputs.whole_image is None else inputs.whole_image,
        "last_image": inputs.last_image if inputs.whole_last_image is None else inputs.whole_last_image,
    }
    return {name: Image.fromarray(pixels) for name, pixels in given.items() if pixels is not None}
