"""The reference of the parity tests: small SkyReelsV2 pipelines with random weights, and how they are run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from render_farm.engine import Inputs
from render_farm.engine.denoising.noise import PrefixNoise
from render_farm.engine.pipelines import pipeline_arguments
from render_farm.planning import FilmPlan

VOCABULARY = "a red blue green ball cube moves left right up down slowly fast over grass sand water at night"
TEXT_DIM = 32
HEIGHT, WIDTH = 32, 48


CLIP_SIZE, CLIP_PATCH, CLIP_DIM = 28, 7, 40
"""A picture of 28 x 28 is 17 tokens of 40 channels."""


def build_pipeline(
    seed: int = 0,
    *,
    sample_info: bool = True,
    num_layers: int = 3,
    vae_width: int = 4,
    cls: type = SkyReelsV2DiffusionForcingPipeline,
    **transformer: Any,
) -> Any:
    """A pipeline whose weights depend only on `seed`. All of them are spread widely: with the usual initial values,
    modulation and attention hardly change the result, and a wrong mask or timestep would go unseen.

    `cls` is one of the five pipelines; `transformer` adds to its transformer's configuration."""
    torch.manual_seed(seed)
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *VOCABULARY.split()])}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    images: dict[str, Any] = {}
    if cls is SkyReelsV2ImageToVideoPipeline:
        images = {"image_encoder": _image_encoder(seed), "image_processor": _image_processor()}
        transformer = {"in_channels": 36, "image_dim": CLIP_DIM, "added_kv_proj_dim": 48, **transformer}
        torch.manual_seed(seed)
    pipeline = cls(
        **images,
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
        ),
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=32, d_model=TEXT_DIM, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0)
        ),
        transformer=SkyReelsV2Transformer3DModel(
            **{
                "num_attention_heads": 2,
                "attention_head_dim": 24,
                "ffn_dim": 96,
                "num_layers": num_layers,
                "freq_dim": 64,
                "text_dim": TEXT_DIM,
                "inject_sample_info": sample_info,
                **transformer,
            }
        ),
        vae=AutoencoderKLWan(base_dim=vae_width, dim_mult=[1, 2, 2, 2], num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0),
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in pipeline.transformer.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _image_encoder(seed: int) -> CLIPVisionModelWithProjection:
    torch.manual_seed(seed)
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=CLIP_DIM,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=CLIP_SIZE,
            patch_size=CLIP_PATCH,
            projection_dim=16,
        )
    )
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return encoder


def _image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": CLIP_SIZE}, crop_size={"height": CLIP_SIZE, "width": CLIP_SIZE})


def load_pipeline(folder: Path, dtype: torch.dtype, cls: type = SkyReelsV2DiffusionForcingPipeline) -> Any:
    """The saved pipeline in `dtype` with a float32 VAE, as the model's documentation loads it."""
    vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    pipeline = cls.from_pretrained(folder, vae=vae, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


PIPELINE_OF_TASK = {
    "t2v": SkyReelsV2DiffusionForcingPipeline,
    "i2v": SkyReelsV2DiffusionForcingImageToVideoPipeline,
    "flf2v": SkyReelsV2DiffusionForcingImageToVideoPipeline,
    "v2v": SkyReelsV2DiffusionForcingVideoToVideoPipeline,
}


def pipeline_for(pipeline: SkyReelsV2DiffusionForcingPipeline, task: str, cls: type | None = None) -> Any:
    """The pipeline of `task` (or `cls`) with the parts of `pipeline`."""
    other = (cls or PIPELINE_OF_TASK[task])(**pipeline.components)
    other.set_progress_bar_config(disable=True)
    return other


def make_inputs(task: str, *, num_frames: int = 21, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Inputs:
    """What `task` takes: a smooth picture with noise on it, moving in a video; all of them different."""
    rng = np.random.default_rng(seed)

    def picture(shift: float) -> np.ndarray:
        y, x = np.mgrid[0:height, 0:width] / height
        waves = np.stack([np.sin(3 * x + shift), np.cos(4 * y - shift), np.sin(5 * x * y + 2 * shift)], axis=-1)
        return (127 + 90 * waves + rng.integers(-30, 30, (height, width, 3))).clip(0, 255).astype(np.uint8)

    if task == "v2v":
        return Inputs(video=np.stack([picture(0.2 * frame) for frame in range(num_frames)]))
    return Inputs(image=picture(0.0), last_image=picture(2.0) if task == "flf2v" else None)


def render_reference(pipeline: Any, plan: FilmPlan, output_type: str = "latent", inputs: Inputs | None = None):
    """What diffusers renders for the same parameters: latents (1 C T h w), or frames (T H W 3) in 0..1.

    Of the latents of a flf2v film, the extra last one (the last image) is left out.
    """
    job = plan.job
    assert len(job.prompts) == 1, "a prompt list has no reference"
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=job.flow_shift)
    arguments = pipeline_arguments(plan, inputs) | {"output_type": output_type}
    with _prefix_noise(plan):
        frames = pipeline(prompt=job.prompts[0], negative_prompt=job.negative_prompt, **arguments).frames
    if output_type == "latent":
        return frames[:, :, :-1] if job.task == "flf2v" and plan.spec.renders_windows else frames
    return frames[0]


@contextmanager
def _prefix_noise(plan: FilmPlan) -> Iterator[None]:
    """Let the pipeline's `torch.randn_like` (the noise on the prefix, one draw a step) give our stream's numbers."""
    draws = _draws(plan)

    def randn_like(tensor: Tensor) -> Tensor:
        segment_noise = next(draws)
        return segment_noise(tuple(tensor.shape)).to(tensor)

    with mock.patch.object(torch, "randn_like", randn_like):
        yield
    noisy = plan.job.addnoise_condition > 0
    assert next(draws, None) is None or not noisy, "one draw a step of every window with a prefix"


def _draws(plan: FilmPlan) -> Iterator:
    job = plan.job
    for window in plan.windows:
        if not window.num_prefix_frames:
            continue
        noise = PrefixNoise(seed=job.seed, segment=window.index)
        once: dict[tuple[int, ...], Tensor] = {}
        # diffusers takes the steps of the last image too, in which nothing moves any more.
        idle_rows = min(job.ar_step, job.num_inference_steps) * window.num_last_image_frames
        for _ in range(plan.schedule(window.index).num_rows + idle_rows):
            if plan.job.prefix_noise == "per_step":
                yield noise.draw
            else:
                yield lambda shape, noise=noise, once=once: once.setdefault(
                    shape, noise.draw(shape) if shape not in once else once[shape]
                )


@contextmanager
def unaliased_scheduler() -> Iterator[None]:
    """diffusers' scheduler given copies instead of views: what `sampler: corrected` stands for."""
    original = UniPCMultistepScheduler.step

    def step(self, model_output, timestep, sample, return_dict=True):
        return original(self, model_output, timestep, sample.clone(), return_dict)

    with mock.patch.object(UniPCMultistepScheduler, "step", step):
        yield
