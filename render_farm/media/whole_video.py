"""All frames of an input video, for a film that begins with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from render_farm.media.fetching.fetch import fetched_file
from render_farm.media.fitting import Fit
from render_farm.media.limits import InputLimits
from render_farm.media.videos import SourceVideo, decoded_frames, fitted_frame

_LIMITS = InputLimits()


def read_video(
    uri: str,
    *,
    width: int,
    height: int,
    fps: float | None = None,
    fit: Fit = "crop",
    limits: InputLimits = _LIMITS,
) -> Iterator[np.ndarray]:
    """The frames of the video at `uri` in order, (height, width, 3) uint8 RGB, fitted as `inputs.load_video_tail` fits
    them. It is fetched when the first frame is asked for; memory does not grow with its length. Raises `InputError`.
    """
    with fetched_file(uri, max_bytes=limits.max_video_bytes, limits=limits) as path:
        for frame in decoded_frames(SourceVideo.describe(path, uri=uri, fps=fps, limits=limits)):
            yield fitted_frame(frame, width, height, fit)
