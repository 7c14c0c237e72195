"""Train the video autoencoder's decoder on short clips; its encoder is designed (see `designed_vae`).

Shapes: clips B 3 T H W in [-1, 1]; latents B 16 T' H/8 W/8, not normalised.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from render_farm.tiny.build import Architecture, build_vae
from render_farm.tiny.clips import draw_change, draw_scene, render_change, render_clip
from render_farm.tiny.designed_vae import design_encoder, linear_latents, start_decoder
from render_farm.tiny.fast_vae import decode_clips
from render_farm.tiny.loop import LoopConfig, Share, train

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What one step of the decoder sees."""

    clip_frames: tuple[tuple[int, int], ...] = ((8, 5), (4, 9), (4, 17))
    """Clips a step and their pixel frames (4n + 1), one of these drawn at each step. The long ones matter: the causal
    convolutions reach far back, and what only ever saw 9 frames loses 4 dB by frame 17."""
    late_clip_frames: tuple[tuple[int, int], ...] = ((8, 5), (4, 17), (4, 33))
    """The same for the last part of the training."""
    late_share: float = 0.3
    """Share of the steps in that part."""
    latent_noise: float = 0.02
    """Standard deviation of noise added to each latent channel, relative to the channel's: samples are not exact."""
    shape_weight: float = 3.0
    """Weight of the shapes' pixels, relative to the background's."""
    flicker_weight: float = 1.0
    """Weight of the change of the error from frame to frame: what is drawn a little wrong should not jump every fourth
    frame, where one latent frame follows another."""
    seed: int = 0


def draw_clips(seed: int, step: int, items: Iterable[int], num_frames: int) -> Tensor:
    """Return a step's training clips of these numbers, B 3 T H W; a tenth of the longer ones change midway,
    an eighth of the others is outlined."""
    clips = []
    for item in items:
        rng = np.random.default_rng([seed, step, item])
        scene = draw_scene(rng, two_percent=30)
        clip_seed, first_frame = int(rng.integers(1 << 31)), int(rng.integers(200))
        if num_frames > 1 and rng.integers(10) == 0:
            change_at = int(rng.integers(1, num_frames))
            clip = render_change(scene, draw_change(rng, scene), clip_seed, num_frames, change_at, first_frame)
        else:
            clip = render_clip(scene, clip_seed, num_frames, first_frame, outlined=bool(rng.integers(8) == 0))
        clips.append(torch.from_numpy(clip))
    return torch.stack(clips).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


def decoder_loss(vae: AutoencoderKLWan, clips: Tensor, noise: Tensor, config: VaeConfig) -> dict[str, Tensor]:
    """Return the losses of one batch; `noise` has the latents' shape and unit variance."""
    latents = linear_latents(clips)
    scale = latents.std(dim=(0, 2, 3, 4), keepdim=True)
    error = decode_clips(vae, latents + config.latent_noise * scale * noise) - clips
    background = clips.flatten(3).median(dim=3).values[..., None, None]
    is_shape = ((clips - background).abs().amax(dim=1, keepdim=True) > 0.02).float()
    weight = 1 + (config.shape_weight - 1) * is_shape
    loss = (weight * (2 * error.square() + error.abs())).mean()
    if config.flicker_weight and error.shape[2] > 1:
        loss = loss + config.flicker_weight * (weight[:, :, 1:] * error.diff(dim=2).abs()).mean()
    return {"loss": loss, "mse": error.detach().square().mean()}


def train_vae(
    architecture: Architecture,
    config: VaeConfig,
    loop: LoopConfig,
    folder: Path,
    device: torch.device,
    share: Share,
    start: Path | None = None,
) -> AutoencoderKLWan:
    """Train, resuming from `folder`/vae.pt, and return the autoencoder with its averaged weights.

    The decoder starts as a blur, or as that of the checkpoint `start`.
    """
    torch.manual_seed(config.seed)
    vae: Any = build_vae(architecture)
    start_decoder(vae)
    if start:
        vae.load_state_dict(AutoencoderKLWan.from_pretrained(start / "vae").state_dict())
    design_encoder(vae)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    vae.to(device).train()

    def step_loss(step: int) -> dict[str, Tensor]:
        choices = config.clip_frames if step < (1 - config.late_share) * loop.steps else config.late_clip_frames
        count, frames = choices[np.random.default_rng([config.seed, step]).integers(len(choices))]
        clips = draw_clips(config.seed, step, share.items(count), frames).to(device)
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 64 + share.rank)
        shape = (len(clips), vae.config.z_dim, (frames - 1) // 4 + 1, clips.shape[3] // 8, clips.shape[4] // 8)
        return decoder_loss(vae, clips, torch.randn(shape, generator=generator).to(device), config)

    vae.load_state_dict(train(vae, step_loss, folder / "vae.pt", loop))
    trained: AutoencoderKLWan = vae.eval()
    return trained


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, clips: Tensor) -> float:
    """Return the peak signal-to-noise ratio, in dB, of clips through the autoencoder and back."""
    mse = ((decode_clips(vae, linear_latents(clips)).clamp(-1, 1) - clips) / 2).square().mean()
    return float(-10 * torch.log10(mse))
