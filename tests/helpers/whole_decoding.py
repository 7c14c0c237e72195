"""The pipeline's own decoding of a whole video, for comparison with decoding in a stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def whole(vae: Any, latents: torch.Tensor) -> np.ndarray:
    """What the pipeline makes of `latents` (1 C T h w): its decoding, postprocessing and the contract's rounding."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        video = vae.decode(latents / inverse_std + mean, return_dict=False)[0]
    frames = (video[0].permute(1, 2, 3, 0) * 0.5 + 0.5).clamp(0, 1).numpy()
    return (frames * 255).astype(np.uint8)


def noise(num_latent_frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((1, 16, num_latent_frames, 4, 6), generator=torch.Generator().manual_seed(seed))
