"""The same window by diffusers' pipeline, with the same weights and inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_skyreels_v2 import (
    SkyReelsV2Transformer3DModel,
    SkyReelsV2TransformerBlock,
)
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing import SkyReelsV2DiffusionForcingPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from render_farm.engine.pipelines import pipeline_arguments
from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.planning import FilmPlan


class _Enough(Exception):
    """As many steps as were wanted are done."""


def render_with_diffusers(
    transformer: FrameTransformer, plan: FilmPlan, embeddings: Mapping[str, Tensor], *, num_steps: int | None = None
) -> Tensor | None:
    """The latents (1 C T h w) of a film of one window; None when it was stopped after `num_steps`."""
    job, done = plan.job, [0]

    def count(*_: Any) -> dict[str, Any]:
        done[0] += 1
        if num_steps is not None and done[0] >= num_steps:
            raise _Enough
        return {}

    def given(text: str) -> Tensor:
        return embeddings[text].unsqueeze(0).to(transformer.device, transformer.dtype)

    with _as_diffusers_made_it(transformer) as model, torch.no_grad():
        absent: Any = None  # not needed: embeddings come in, latents go out
        pipeline: Any = SkyReelsV2DiffusionForcingPipeline(
            tokenizer=absent,
            text_encoder=absent,
            transformer=model,
            vae=absent,
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=job.flow_shift
            ),
        )
        pipeline.set_progress_bar_config(disable=True)
        try:
            latents: Tensor = pipeline(
                prompt=None,
                prompt_embeds=given(job.prompts[0]),
                negative_prompt_embeds=given(job.negative_prompt) if job.guided else None,
                **pipeline_arguments(plan),
                callback_on_step_end=count,
            ).frames
        except _Enough:
            return None
        return latents


@contextmanager
def _as_diffusers_made_it(model: FrameTransformer) -> Iterator[SkyReelsV2Transformer3DModel]:
    """diffusers' own forward on the same weights, which exist once."""
    own = [(module, module.__class__) for module in (model, *model.blocks)]
    model.__class__ = SkyReelsV2Transformer3DModel
    for block in model.blocks:
        block.__class__ = SkyReelsV2TransformerBlock
    try:
        yield model
    finally:
        for module, cls in own:
            module.__class__ = cls
