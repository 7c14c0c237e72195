"""What a job is conditioned on: its images, and the end of its video. See README.md in this folder for the rules.

Every function raises `InputError`, which says which input, what is wrong with it and what would work. Not the input's
fault, and so not that: `StorageError` (an object store does not answer), `StorageFullError`, `MediaError` (no ffmpeg).
"""

from __future__ import annotations

import hashlib
import io
from typing import Literal

import numpy as np
from PIL import Image

from render_farm.config import InputLimits
from render_farm.media.fetch import fetch, fetched_file
from render_farm.media.fitting import Fit, fit_image
from render_farm.media.images import decode_image
from render_farm.media.videos import decode_tail

_LIMITS = InputLimits()


def load_image(uri: str, *, width: int, height: int, fit: Fit = "crop", limits: InputLimits = _LIMITS) -> np.ndarray:
    """The image at `uri`, (height, width, 3) uint8 RGB, upright and fitted as `fitting.fit_image` says.

    With `fit="stretch"` its values are those that diffusers' pipelines make of the same picture.
    """
    assert width > 0 and height > 0
    return fitted(open_image(uri, limits), width=width, height=height, fit=fit)


def open_image(uri: str, limits: InputLimits = _LIMITS) -> Image.Image:
    """The picture at `uri` as RGB, upright, in its own size."""
    buffer = io.BytesIO()
    fetch(uri, buffer, max_bytes=limits.max_image_bytes, limits=limits)
    return decode_image(buffer.getvalue(), uri=uri, limits=limits)


def fitted(image: Image.Image, *, width: int, height: int, fit: Fit) -> np.ndarray:
    """`image` as (height, width, 3) uint8."""
    return np.asarray(fit_image(image, width=width, height=height, fit=fit)).copy()


def load_video_tail(
    uri: str, num_frames: int, *, width: int, height: int, fit: Fit = "crop", limits: InputLimits = _LIMITS
) -> np.ndarray:
    """The last `num_frames` frames of the video at `uri`, (num_frames, height, width, 3) uint8 RGB, each fitted as
    an image would be. Memory does not grow with the video's length."""
    assert num_frames > 0 and width > 0 and height > 0
    with fetched_file(uri, max_bytes=limits.max_video_bytes, limits=limits) as path:
        return decode_tail(path, num_frames, width=width, height=height, fit=fit, uri=uri, limits=limits)


def input_digest(uri: str, limits: InputLimits = _LIMITS, *, kind: Literal["image", "video"] = "video") -> str:
    """sha256 of the bytes at `uri`, lower-case hex. `kind` says how many there may be. Nothing is decoded."""
    digest = _Digest()
    max_bytes = limits.max_image_bytes if kind == "image" else limits.max_video_bytes
    fetch(uri, digest, max_bytes=max_bytes, limits=limits)
    return digest.hexdigest()


class _Digest:
    """Looks like a file to `fetch`, and keeps only the hash of what is written."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, block: bytes, /) -> None:
        self._hash.update(block)

    def seek(self, position: int, /) -> None:
        assert position == 0

    def truncate(self) -> None:
        self._hash = hashlib.sha256()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
