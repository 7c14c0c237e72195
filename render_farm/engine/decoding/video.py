"""`Video`: a rendered film, its frames decoded when they are asked for."""

from __future__ import annotations

import base64
import html
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

from render_farm.engine.decoding.streaming import StreamingDecoder
from render_farm.planning import FilmPlan

_MOST_SHOWN_BYTES = 32 << 20
"""A longer MP4 is not embedded in a notebook, which stores what it shows."""


class Video:
    """Latents of a whole film, and the way to its frames. A notebook shows it as a video."""

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

    def save(self, path: str | Path, *, mark: bool = True) -> None:
        """Write an MP4 with the job's frame rate and quality. With `mark` it says that a model made it."""
        from render_farm.media.mp4 import Mp4Writer
        from render_farm.media.provenance import marker_of, xmp_packet

        job, xmp = self.plan.job, xmp_packet(marker_of(self.plan)) if mark else b""
        with Mp4Writer(path, width=job.width, height=job.height, fps=job.fps, quality=job.quality, xmp=xmp) as writer:
            for frame in self.frames:
                writer.append(frame)

    def _repr_html_(self) -> str:
        """For notebooks: the MP4, or a link to a temporary file where it is larger than 32 MiB.

        The file lasts as long as this object.
        """
        return self._html

    @cached_property
    def _html(self) -> str:
        job = self.plan.job
        number, name = tempfile.mkstemp(prefix="render-farm-", suffix=".mp4")
        os.close(number)
        path = Path(name)
        remove = weakref.finalize(self, path.unlink, missing_ok=True)
        self.save(path)
        size = path.stat().st_size
        if size > _MOST_SHOWN_BYTES:
            return f'<a href="{path.as_uri()}">{html.escape(job.job_id)}: {size / (1 << 20):.0f} MiB of MP4</a>'
        data = base64.b64encode(path.read_bytes()).decode()
        remove()
        return (
            f'<video controls loop muted width="{job.width}" height="{job.height}"'
            f' src="data:video/mp4;base64,{data}"></video>'
        )
