"""A film's inputs: pixels as they are given (`Inputs`), and the latents that they become (`Conditioning`).

Shapes: B batch (1), C latent channels, T latent frames, h w latent height and width; pixels are (H, W, 3) and, for a
video, (F, H, W, 3), uint8.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from render_farm.errors import InputError, UsageError
from render_farm.planning import FilmPlan, Window
from render_farm.planning.resolve import ResolvedJob
from render_farm.planning.tasks import INPUTS


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """What a job's image, last_image and video show, RGB at the job's size; None where its task takes none."""

    image: np.ndarray | None = None
    """(H, W, 3) uint8."""
    last_image: np.ndarray | None = None
    """(H, W, 3) uint8."""
    video: np.ndarray | None = None
    """(F, H, W, 3) uint8: its last frames, at least `overlap_history` of them, or all."""

    def digests(self) -> dict[str, str]:
        """sha256 of the pixels, by column: for inputs that come as arrays, not as files."""
        given = {name: getattr(self, name) for name in ("image", "last_image", "video")}
        return {name: _pixel_digest(pixels) for name, pixels in given.items() if pixels is not None}


def _pixel_digest(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(f"pixels {pixels.shape} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """A film's inputs as latents (1 C T h w), float32 on the CPU, normalised as the film's own are.

    All that segments need of the inputs; only the first and the last segment need any (`Window.needs_inputs`).
    """

    first_image: Tensor | None = None
    """T = 1."""
    last_image: Tensor | None = None
    """T = 1."""
    video_prefix: Tensor | None = None
    """T = latent(overlap_history)."""

    @property
    def prefix(self) -> Tensor | None:
        """What the first window starts with."""
        return self.first_image if self.video_prefix is None else self.video_prefix

    @property
    def closing(self) -> Tensor | None:
        """What the last window's closing frame shows."""
        return self.last_image


def check_conditioning(plan: FilmPlan, window: Window, conditioning: Conditioning | None) -> None:
    """Raise `UsageError` when `window` needs latents that are not there, or have another shape."""
    size = (plan.latent_height, plan.latent_width)
    for name, num_frames in (("prefix", window.num_input_frames), ("closing", window.num_closing_frames)):
        if not num_frames:
            continue
        shape = (1, plan.facts.latent_channels, num_frames, *size)
        latents = None if conditioning is None else getattr(conditioning, name)
        if latents is None or tuple(latents.shape) != shape:
            given = "none" if latents is None else tuple(latents.shape)
            raise UsageError(
                f"segment {window.index} of a {plan.job.task} film needs {name} latents of shape {shape}, "
                f"given {given}",
                advice="give it engine.encode_conditioning(plan, inputs)",
            )


@torch.no_grad()
def encode_inputs(vae: AutoencoderKLWan, plan: FilmPlan, inputs: Inputs) -> Conditioning:
    """Encode what the plan's task takes, as `prepare_latents` of the image and video pipelines do.

    Raises `InputError` for pixels that are missing, of another size or type, or for a video that is too short.
    """
    job = plan.job
    pixels = {name: _checked(job, name, getattr(inputs, name)) for name in INPUTS[job.task]}
    if job.task == "v2v":
        return Conditioning(video_prefix=_encode(vae, pixels["video"][None, -job.overlap_history :]))
    if not pixels:
        return Conditioning()
    # Both images in one batch, as diffusers encodes them.
    latents = _encode(vae, np.stack(list(pixels.values()))[:, None])
    return Conditioning(first_image=latents[:1], last_image=latents[1:] if len(latents) > 1 else None)


def _checked(job: ResolvedJob, name: str, pixels: np.ndarray | None) -> np.ndarray:
    if pixels is None:
        raise InputError(f"job {job.job_id}: {name}: its pixels are missing, task {job.task} needs them")
    size = (job.height, job.width, 3)
    expected = f"({'F, ' if name == 'video' else ''}{job.height}, {job.width}, 3) uint8"
    if pixels.dtype != np.uint8 or pixels.ndim != (4 if name == "video" else 3) or pixels.shape[-3:] != size:
        raise InputError(f"job {job.job_id}: {name}: is {pixels.shape} {pixels.dtype}, not {expected}")
    if name == "video" and len(pixels) < job.overlap_history:
        raise InputError(
            f"job {job.job_id}: video: its {len(pixels)} frames are fewer than the {job.overlap_history} of "
            "overlap_history",
            advice="give a longer video, or an overlap_history of the form 4n+1 that it has",
        )
    return pixels


def _encode(vae: AutoencoderKLWan, pixels: np.ndarray) -> Tensor:
    """(B F H W 3) uint8 to normalised latents (B C T h w), float32 on the CPU: the mean of the posterior."""
    levels = torch.from_numpy(pixels.astype(np.float32) / 255.0).permute(0, 4, 1, 2, 3)
    video = (2.0 * levels - 1.0).to(vae.device, vae.dtype)
    latents = vae.encode(video).latent_dist.mode().to(torch.float32)
    mean = torch.tensor(vae.config["latents_mean"]).view(1, -1, 1, 1, 1).to(latents)
    inverse_std = 1.0 / torch.tensor(vae.config["latents_std"]).view(1, -1, 1, 1, 1).to(latents)
    return ((latents - mean) * inverse_std).cpu()
