"""A film's inputs: pixels as they are given (`Inputs`), and the latents that they become (`Conditioning`).

Shapes: B batch (1), C latent channels, T latent frames, h w latent height and width; pixels are (H, W, 3) and, for a
video, (F, H, W, 3), uint8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
    """The pixels of a job's image, last_image and video, RGB at the job's size. None where its task takes none."""

    image: np.ndarray | None = None
    """(H, W, 3) uint8."""
    last_image: np.ndarray | None = None
    """(H, W, 3) uint8."""
    video: np.ndarray | None = None
    """(F, H, W, 3) uint8: its last frames, at least `overlap_history` of them, or all."""
    whole_image: np.ndarray | None = None
    """(any height, any width, 3) uint8: the picture that `image` was stretched from. An image encoder sees it, where
    there is one and this is given; else it sees `image`."""
    whole_last_image: np.ndarray | None = None
    """The same of `last_image`."""

    def digests(self) -> dict[str, str]:
        """sha256 of the pixels, by column: for inputs that come as arrays, not as files."""
        given = {
            "image": (self.image, self.whole_image),
            "last_image": (self.last_image, self.whole_last_image),
            "video": (self.video,),
        }
        return {name: _pixel_digest(pixels) for name, pixels in given.items() if pixels[0] is not None}


def _pixel_digest(arrays: Sequence[np.ndarray | None]) -> str:
    digest = hashlib.sha256()
    for pixels in arrays:
        if pixels is not None:
            digest.update(f"pixels {pixels.shape} ".encode())
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
    """T = 1: what the model sees after the last window's own frames."""
    video_prefix: Tensor | None = None
    """T = latent(overlap_history)."""
    image_channels: Tensor | None = None
    """(1 M+C T h w), T that of the film: M channels (4) say which pixel frames an image gives, C are the latents of a
    video that shows the images there and grey elsewhere. For checkpoints without diffusion forcing."""
    image_states: Tensor | None = None
    """(N S D) from the image encoder, in its dtype; N images. For the same checkpoints."""

    @property
    def prefix(self) -> Tensor | None:
        """The latents that the first window starts with."""
        return self.first_image if self.video_prefix is None else self.video_prefix


def check_conditioning(plan: FilmPlan, window: Window, conditioning: Conditioning | None) -> None:
    """Raise `UsageError` when `window` needs latents that are not there, or have another shape."""
    size = (plan.latent_height, plan.latent_width)
    num_channels = plan.spec.latent_channels
    needed = {
        "prefix": (num_channels, window.num_input_frames),
        "last_image": (num_channels, window.num_last_image_frames),
        "image_channels": (
            num_channels + plan.spec.temporal_factor,
            window.num_latent_frames if window.has_image_channels else 0,
        ),
    }
    for name, (channels, num_frames) in needed.items():
        if not num_frames:
            continue
        shape = (1, channels, num_frames, *size)
        latents = None if conditioning is None else getattr(conditioning, name)
        if latents is None or tuple(latents.shape) != shape:
            given = "none" if latents is None else tuple(latents.shape)
            raise UsageError(
                f"segment {window.index} of a {plan.job.task} film needs {name} latents of shape {shape}, "
                f"given {given}",
                advice=_ADVICE,
            )
    if window.has_image_channels and (conditioning is None or conditioning.image_states is None):
        raise UsageError(f"segment {window.index} needs the states of its images, given none", advice=_ADVICE)


_ADVICE = "give it engine.encode_conditioning(plan, inputs)"


EncodeImages = Callable[[Sequence[np.ndarray]], Tensor]
"""Pictures (any height, any width, 3) uint8 to the image encoder's states (N S D)."""


@torch.no_grad()
def encode_inputs(vae: AutoencoderKLWan, plan: FilmPlan, inputs: Inputs, encode_images: EncodeImages) -> Conditioning:
    """Encode the inputs of the plan's task, as `prepare_latents` of the image and video pipelines do.

    `encode_images` is called for checkpoints without diffusion forcing. Raises `InputError` for pixels that are
    missing, of another size or type, or for a video that is too short.
    """
    job = plan.job
    pixels = {name: _checked(job, name, getattr(inputs, name)) for name in INPUTS[job.task]}
    if job.task == "v2v":
        return Conditioning(video_prefix=_encode(vae, pixels["video"][None, -job.overlap_history :]))
    if not pixels:
        return Conditioning()
    if not plan.spec.renders_windows:
        whole = {"image": inputs.whole_image, "last_image": inputs.whole_last_image}
        pictures = [fitted if (picture := whole[name]) is None else picture for name, fitted in pixels.items()]
        return Conditioning(
            image_channels=_image_channels(vae, plan, list(pixels.values())), image_states=encode_images(pictures)
        )
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


def _image_channels(vae: AutoencoderKLWan, plan: FilmPlan, images: list[np.ndarray]) -> Tensor:
    """See `Conditioning.image_channels`. `images` are the first and, if there is one, the last of the film's frames."""
    shown = _levels(np.stack(images)[:, None])  # N 3 1 H W
    video = shown.new_zeros((1, 3, plan.num_frames, *shown.shape[3:]))
    latents_size = (plan.num_latent_frames, plan.latent_height, plan.latent_width)
    mask = shown.new_zeros((1, plan.spec.temporal_factor, *latents_size))
    video[:, :, 0], mask[:, :, 0] = shown[:1, :, 0], 1
    if len(shown) > 1:
        video[:, :, -1], mask[:, -1, -1] = shown[1:, :, 0], 1
    return torch.cat((mask, _encode_levels(vae, video)), dim=1)


def _levels(pixels: np.ndarray) -> Tensor:
    """(B F H W 3) uint8 to (B 3 F H W) float32 in -1..1."""
    return 2.0 * torch.from_numpy(pixels.astype(np.float32) / 255.0).permute(0, 4, 1, 2, 3) - 1.0


def _encode(vae: AutoencoderKLWan, pixels: np.ndarray) -> Tensor:
    """(B F H W 3) uint8 to normalised latents (B C T h w), float32 on the CPU."""
    return _encode_levels(vae, _levels(pixels))


def _encode_levels(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """(B 3 F H W) in -1..1 to normalised latents (B C T h w), float32 on the CPU: the mean of the posterior."""
    video = video.to(vae.device, vae.dtype)
    latents: Tensor = vae.encode(video).latent_dist.mode().to(torch.float32)
    mean = torch.tensor(vae.config["latents_mean"]).view(1, -1, 1, 1, 1).to(latents)
    inverse_std = 1.0 / torch.tensor(vae.config["latents_std"]).view(1, -1, 1, 1, 1).to(latents)
    return ((latents - mean) * inverse_std).cpu()
