"""diffusers' image pipeline with the lines repaired on which it fails in long films; the rest is its own source.

It fails on a last window that is shorter than the others (it walks over as many frames as a whole window has), and on
a last image when the overlap is more than one latent frame (it counts the prefix where it means the last image).
"""

from __future__ import annotations

import inspect
import textwrap

from diffusers import SkyReelsV2DiffusionForcingImageToVideoPipeline
from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2_diffusion_forcing_i2v as module

_REPAIRS = (
    (
        "base_latent_num_frames += prefix_video_latents_frames",
        "base_latent_num_frames += end_video_latents.shape[2]",
    ),
    (
        "current_num_latent_frames += prefix_video_latents_frames",
        "current_num_latent_frames += end_video_latents.shape[2]",
    ),
    ("step_matrix[:, -prefix_video_latents_frames:] = 0", "step_matrix[:, -1:] = 0"),
    ("step_update_mask[:, -prefix_video_latents_frames:] = False", "step_update_mask[:, -1:] = False"),
    (
        "base_latent_num_frames,\n                ar_step,",
        "min(base_latent_num_frames, current_num_latent_frames),\n                ar_step,",
    ),
    ("latents = latents[:, :, :-prefix_video_latents_frames, :, :]", "latents = latents[:, :, :-1, :, :]"),
)


def _repaired_call():
    source = textwrap.dedent(inspect.getsource(SkyReelsV2DiffusionForcingImageToVideoPipeline.__call__))
    for broken, repaired in _REPAIRS:
        broken, repaired = (text.replace("\n    ", "\n") for text in (broken, repaired))  # dedented with the source
        assert source.count(broken) == 1, f"diffusers has another text for {broken!r}"
        source = source.replace(broken, repaired)
    namespace = dict(vars(module))
    exec(compile(source, "<repaired __call__>", "exec"), namespace)
    return namespace["__call__"]


class RepairedImagePipeline(SkyReelsV2DiffusionForcingImageToVideoPipeline):
    """See the module."""

    __call__ = _repaired_call()
