"""What a job is conditioned on: its images, and the end of its video. See README.md in this folder for the rules.

Every function raises `InputError`, which says which input, what is wrong with it and what would work. Not the input's
fault, and so not that: `StorageError` (an object store does not answer), `StorageFullError`, `MediaError` (no ffmpeg).
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from render_farm.media.fetch import fetch, fetched_file
from render_farm.media.fitting import Fit, fit_image
from render_farm.media.images import decode_image
from render_farm.media.limits import InputLimits
from render_farm.media.videos import decode_tail

_LIMITS = InputLimits()


def load_image(uri: str, *, width: int, height: int, fit: Fit = "crop", limits: InputLimits = _LIMITS) -> np.ndarray:
    """The image at `uri`, (height, width, 3) uint8 RGB, upright and fitted as `fitting.fit_image` says.

    With `fit="stretch"` its values are those that diffusers' pipelines make of the same picture.
    """
    assert width > 0 and height > 0
    return fitted(open_image(uri, limits)[0], width=width, height=height, fit=fit)


def open_image(uri: str, limits: InputLimits = _LIMITS) -> tuple[Image.Image, str]:
    """The picture at `uri` as RGB, upright, in its own size; and the sha256 of its bytes, lower-case hex."""
    buffer = io.BytesIO()
    fetch(uri, buffer, max_bytes=limits.max_image_bytes, limits=limits)
    data = buffer.getvalue()
    return decode_image(data, uri=uri, limits=limits), hashlib.sha256(data).hexdigest()


def fitted(image: Image.Image, *, width: int, height: int, fit: Fit) -> np.ndarray:
    """`image` as (height, width, 3) uint8."""
    return np.asarray(fit_image(image, width=width, height=height, fit=fit)).copy()


def load_video_tail(
    uri: str, num_frames: int, *, width: int, height: int, fit: Fit = "crop", limits: InputLimits = _LIMITS
) -> np.ndarray:
    """The last `num_frames` frames of the video at `uri`, (num_frames, height, width, 3) uint8 RGB, each fitted as
    an image would be. Memory does not grow with the video's length."""
    return open_video_tail(uri, num_frames, width=width, height=height, fit=fit, limits=limits)[0]


def open_video_tail(
    uri: str, num_frames: int, *, width: int, height: int, fit: Fit = "crop", limits: InputLimits = _LIMITS
) -> tuple[np.ndarray, str]:
    """`load_video_tail`, and the sha256 of the video's bytes, lower-case hex."""
    assert num_frames > 0 and width > 0 and height > 0
    with fetched_file(uri, max_bytes=limits.max_video_bytes, limits=limits) as path:
        frames = decode_tail(path, num_frames, width=width, height=height, fit=fit, uri=uri, limits=limits)
        with open(path, "rb") as file:
            return frames, hashlib.file_digest(file, "sha256").hexdigest()
