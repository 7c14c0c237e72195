"""`Video`: a rendered film, its frames decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

from render_farm.engine.decoding.streaming import StreamingDecoder
from render_farm.planning import FilmPlan


class Video:
    """Latents of a whole film, and the way to its frames."""

    def __init__(
        self,
        latents: Tensor,
        plan: FilmPlan,
        new_decoder: Callable[[], StreamingDecoder],
        lead_in: Callable[[], Iterator[np.ndarray]] | None = None,
    ) -> None:
        """`lead_in` makes an iterator over the frames of the video that the film extends."""
        self._lead_in = lead_in
        self.latents = latents
        """(1, C, T, H, W) float32 on the CPU, normalised as diffusers' `output_type="latent"` gives them."""
        self.plan = plan
        self._new_decoder = new_decoder

    @cached_property
    def num_frames(self) -> int:
        """Pixel frames, with those of the input video that a v2v film extends (which is read to count them)."""
        num_lead_in = sum(1 for _ in self._lead_in()) if self._lead_in else 0
        return num_lead_in + self.plan.num_frames - self.plan.num_repeated_frames

    @property
    def fps(self) -> int:
        return self.plan.job.fps

    @property
    def frames(self) -> Iterator[np.ndarray]:
        """A new iterator over (H, W, 3) uint8 frames from the first on; memory does not grow with the film.

        For v2v the input video's own frames come first, untouched.
        """
        decoded = self._new_decoder().push(self.latents)
        return chain(self._lead_in(), decoded) if self._lead_in else decoded

    def save(self, path: str | Path) -> None:
        """Write an MP4 with the job's frame rate and quality."""
        from render_farm.media.mp4 import Mp4Writer

        job = self.plan.job
        with Mp4Writer(path, width=job.width, height=job.height, fps=job.fps, quality=job.quality) as writer:
            for frame in self.frames:
                writer.append(frame)
