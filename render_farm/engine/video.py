"""`Video`: a rendered film, its frames decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from render_farm.engine.vae import StreamingDecoder
from render_farm.planning import FilmPlan


class Video:
    """Latents of a whole film, and the way to its frames."""

    def __init__(self, latents: Tensor, plan: FilmPlan, new_decoder: Callable[[], StreamingDecoder]) -> None:
        self.latents = latents
        """(1, C, T, H, W) float32 on the CPU, normalised as diffusers' `output_type="latent"` gives them."""
        self.plan = plan
        self._new_decoder = new_decoder

    @property
    def num_frames(self) -> int:
        """Pixel frames."""
        return self.plan.num_frames

    @property
    def fps(self) -> int:
        return self.plan.job.fps

    @property
    def frames(self) -> Iterator[np.ndarray]:
        """A new iterator over (H, W, 3) uint8 frames from the first on; memory does not grow with the film."""
        return self._new_decoder().push(self.latents)

    def save(self, path: str | Path) -> None:
        """Write an MP4 with the job's frame rate and quality."""
        from render_farm.media.mp4 import Mp4Writer

        job = self.plan.job
        with Mp4Writer(path, width=job.width, height=job.height, fps=job.fps, quality=job.quality) as writer:
            for frame in self.frames:
                writer.append(frame)
