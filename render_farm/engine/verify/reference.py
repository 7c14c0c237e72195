"""The diffusers pipelines on the same folder, loaded by diffusers itself: nothing of the engine is used.

Shapes: C channels, T latent frames, h w latent height and width; frames are (F, H, W, 3) uint8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from render_farm.engine.conditioning.conditioning import Inputs
from render_farm.engine.pipelines import block_attention, pipeline_arguments
from render_farm.engine.weights.loading import without_progress_bars
from render_farm.models import Family
from render_farm.planning import FilmPlan, ModelSpec


class Reference:
    """Renders films with diffusers, as its documentation says: transformer in `dtype`, VAE in float32."""

    def __init__(self, folder: Path, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype) -> None:
        import diffusers

        self._spec = spec
        self._device = device
        cls = _pipeline_class(spec.family, "t2v" if spec.family is Family.DIFFUSION_FORCING else spec.tasks[0])
        with without_progress_bars():
            vae = diffusers.AutoencoderKLWan.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
            self._pipeline: Any = cls.from_pretrained(
                folder, vae=vae, torch_dtype=dtype, local_files_only=True, trust_remote_code=False
            )
        self._texts: dict[str, Tensor] = {}

    def encode(self, texts: list[str]) -> None:
        """Encode all prompts, and drop the encoder; the rest of the pipeline then comes to the device."""
        pipeline = self._pipeline
        pipeline.text_encoder.to(self._device)
        with torch.no_grad():
            for text in texts:
                embedding, _ = pipeline.encode_prompt(
                    prompt=text, do_classifier_free_guidance=False, max_sequence_length=512, device=self._device
                )
                self._texts[text] = embedding
        pipeline.register_modules(text_encoder=None, tokenizer=None)
        pipeline.to(self._device)

    def render(self, plan: FilmPlan, inputs: Inputs | None) -> Tensor:
        """The latents (1 C T h w) of a film, float32 on the CPU; of a flf2v film without the last image's."""
        from diffusers import UniPCMultistepScheduler

        job = plan.job
        pipeline = _pipeline_class(self._spec.family, job.task)(**self._pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = UniPCMultistepScheduler.from_config(
            pipeline.scheduler.config,
            flow_shift=job.flow_shift,
            use_flow_sigmas=True,
            prediction_type="flow_prediction",
        )
        with block_attention(pipeline.transformer, plan):
            latents: Tensor = pipeline(
                prompt=None,
                prompt_embeds=self._texts[job.prompts[0]],
                negative_prompt_embeds=self._texts[job.negative_prompt] if job.guided else None,
                **pipeline_arguments(plan, inputs),
            ).frames
        if job.task == "flf2v" and plan.spec.renders_windows:
            latents = latents[:, :, :-1]
        return latents.float().cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames of `latents` (1 C T h w), decoded in one call as the pipelines do."""
        vae, config = self._pipeline.vae, self._pipeline.vae.config
        states = latents.to(vae.device, vae.dtype)
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1).to(states)
        inverse_std = 1.0 / torch.tensor(config.latents_std).view(1, -1, 1, 1, 1).to(states)
        video = vae.decode(states / inverse_std + mean, return_dict=False)[0]
        frames: np.ndarray = self._pipeline.video_processor.postprocess_video(video, output_type="np")[0]
        return (frames * 255).astype(np.uint8)


def _pipeline_class(family: Family, task: str) -> Any:
    import diffusers

    if family is Family.TEXT_TO_VIDEO:
        return diffusers.SkyReelsV2Pipeline
    if family is Family.IMAGE_TO_VIDEO:
        return diffusers.SkyReelsV2ImageToVideoPipeline
    return {
        "t2v": diffusers.SkyReelsV2DiffusionForcingPipeline,
        "v2v": diffusers.SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    }.get(task, diffusers.SkyReelsV2DiffusionForcingImageToVideoPipeline)
