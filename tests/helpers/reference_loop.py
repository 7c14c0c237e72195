"""The denoising loops of diffusers' pipelines with nothing to load, to compare plans with."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler

from render_farm.planning import spec_of_preset

FACTS = replace(spec_of_preset("tiny"), patch=2)  # films of 16x16 keep the reference loop quick


def scheduler(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)


class Denoiser:
    """Stands where the transformer would and notes what it is given: the loop around it is what is under test."""

    dtype = torch.float32
    config = SimpleNamespace(in_channels=1, num_frame_per_block=1)

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def cache_context(self, name):
        return nullcontext()

    def _set_ar_attention(self, causal_block_size):
        pass

    def __call__(self, hidden_states, timestep, **_):
        assert hidden_states.shape[2] == timestep.shape[1]
        self.calls.append(tuple(timestep[0].tolist()))
        return (torch.zeros_like(hidden_states),)


class ReferenceLoop(SkyReelsV2DiffusionForcingPipeline):
    """The reference's own `__call__` with nothing to load."""

    _execution_device = torch.device("cpu")
    config = SimpleNamespace()

    def __init__(self, shift: float) -> None:
        self.__dict__.update(
            vae_scale_factor_temporal=4,
            vae_scale_factor_spatial=8,
            scheduler=scheduler(shift),
            transformer=Denoiser(),
        )

    def maybe_free_model_hooks(self):
        pass

    def encode_prompt(self, **_):
        return torch.zeros(1, 1, 1), None

    def progress_bar(self, total):
        return nullcontext(SimpleNamespace(update=lambda: None))

    def run(self, **kwargs):
        """The timesteps of every forward pass, and the latent frames of the result."""
        latents = self(
            prompt="x", height=16, width=16, guidance_scale=1.0, output_type="latent", return_dict=False, **kwargs
        )[0]
        return self.transformer.calls, latents.shape[2]


def planned_calls(plan) -> list[tuple[int, ...]]:
    calls = []
    for segment in range(plan.num_segments):
        schedule = plan.schedule(segment)
        for row in range(schedule.num_rows):
            calls.append(tuple(t for t in schedule.timestep_row(row) for _ in range(schedule.block_size)))
    return calls


INPUTS = {
    "t2v": {},
    "i2v": {"image": "a.png"},
    "flf2v": {"image": "a.png", "last_image": "b.png"},
    "v2v": {"video": "c.mp4"},
}


class Encoder:
    """A VAE with the shapes of the real one."""

    dtype = torch.float32
    config = SimpleNamespace(z_dim=1, latents_mean=[0.0], latents_std=[1.0])

    def encode(self, pixels):
        frames = (pixels.shape[2] - 1) // 4 + 1
        return SimpleNamespace(latents=torch.zeros(pixels.shape[0], 1, frames, 2, 2))


class Processor:
    def preprocess(self, image, height, width):
        return image

    def preprocess_video(self, video, height, width):
        return video


def loop_of(pipeline: type, **inputs) -> ReferenceLoop:
    """`ReferenceLoop` around another pipeline's `__call__`. For image tasks the repaired one, which differs from
    diffusers' only where that fails."""
    methods = {name: getattr(pipeline, name) for name in ("__call__", "prepare_latents", "check_inputs")}
    loop = type("Loop", (ReferenceLoop,), methods)(FACTS.defaults.flow_shift)
    loop.__dict__.update(vae=Encoder(), video_processor=Processor())
    run = loop.run
    loop.__dict__["run"] = lambda **kwargs: run(**inputs, **kwargs)
    return loop


IMAGE = torch.zeros(1, 3, 16, 16)
