"""The arguments of diffusers' pipelines for a film. `bench`, `verify` and the parity tests compare with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from render_farm.engine.conditioning.conditioning import Inputs
from render_farm.models import CAUSAL
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


@contextmanager
def block_attention(transformer: Any, plan: FilmPlan) -> Iterator[None]:
    """Inside it, diffusers' pipelines attend as `plan` does.

    Their call of `_set_ar_attention` turns the mask on, because they have no blocks without one. For `full` it does
    nothing, so that the block size reaches the timestep matrix alone, as in the makers' own program.
    """
    if plan.job.block_attention == CAUSAL or not plan.spec.renders_windows:
        yield
        return
    transformer._set_ar_attention(1)  # what an earlier film has left in the configuration
    transformer._set_ar_attention = lambda causal_block_size: None
    try:
        yield
    finally:
        del transformer._set_ar_attention


def _pictures(inputs: Inputs) -> dict[str, Any]:
    """The pixels by the pipelines' names for them; a picture as it was before it was stretched, where that is given."""
    if inputs.video is not None:
        return {"video": [Image.fromarray(frame) for frame in inputs.video]}
    given = {
        "image": inputs.image if inputs.whole_image is None else inputs.whole_image,
        "last_image": inputs.last_image if inputs.whole_last_image is None else inputs.whole_last_image,
    }
    return {name: Image.fromarray(pixels) for name, pixels in given.items() if pixels is not None}
