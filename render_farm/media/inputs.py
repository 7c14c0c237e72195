"""What a job is conditioned on: its images, and the end of its video. See README.md in this folder for the rules.

Every function raises `InputError`, which says which input, what is wrong with it and what would work. Not the input's
fault, and so not that: `StorageError` (an object store does not answer), `StorageFullError`, `MediaError` (no ffmpeg).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from render_farm.media.fetching.fetch import fetched_file
from render_farm.media.fitting import Fit, fit_image
from render_farm.media.limits import InputLimits
from render_farm.media.picture_process import decode_apart
from render_farm.media.videos import SourceVideo, decode_tail

_LIMITS = InputLimits()


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedInput:
    """An input's content."""

    pixels: np.ndarray
    """uint8 RGB: (H, W, 3) of an image, (T, H, W, 3) of a video's last frames."""
    sha256: str
    """Of the file's bytes, lower-case hex."""
    notes: tuple[str, ...] = ()
    """Changes to its pixels that its owner may not expect."""
    size: tuple[int, int] | None = None
    """Width and height of a picture, also where `pixels` are not kept."""


def load_image(uri: str, *, width: int, height: int, fit: Fit = "crop", limits: InputLimits = _LIMITS) -> np.ndarray:
    """The image at `uri`, (height, width, 3) uint8 RGB, upright and fitted as `fitting.fit_image` says.

    With `fit="stretch"` its values are those that diffusers' pipelines make of the same picture.
    """
    assert width > 0 and height > 0
    return fitted(open_image(uri, limits).pixels, width=width, height=height, fit=fit)


def open_image(uri: str, limits: InputLimits = _LIMITS, *, keep_pixels: bool = True) -> OpenedInput:
    """The picture at `uri` as sRGB, upright, in its own size. Without `keep_pixels` it is only checked: it is decoded
    in its child process, and `pixels` is empty."""
    with fetched_file(uri, max_bytes=limits.max_image_bytes, limits=limits) as path:
        pixels, notes, size = decode_apart(path, uri=uri, limits=limits, keep_pixels=keep_pixels)
        return OpenedInput(pixels=pixels, sha256=_sha256(path), notes=notes, size=size)


def fitted(picture: np.ndarray, *, width: int, height: int, fit: Fit) -> np.ndarray:
    """`picture`, (H, W, 3) uint8, as (height, width, 3)."""
    return np.asarray(fit_image(Image.fromarray(picture), width=width, height=height, fit=fit)).copy()


def load_video_tail(
    uri: str,
    num_frames: int,
    *,
    width: int,
    height: int,
    fps: float | None = None,
    fit: Fit = "crop",
    limits: InputLimits = _LIMITS,
) -> np.ndarray:
    """The last `num_frames` frames of the video at `uri`, (num_frames, height, width, 3) uint8 RGB, each fitted as
    an image would be, at `fps` (None: at its own rate). Memory does not grow with the video's length."""
    return open_video_tail(uri, num_frames, width=width, height=height, fps=fps, fit=fit, limits=limits).pixels


def open_video_tail(
    uri: str,
    num_frames: int,
    *,
    width: int,
    height: int,
    fps: float | None = None,
    fit: Fit = "crop",
    limits: InputLimits = _LIMITS,
    keep_pixels: bool = True,
) -> OpenedInput:
    """`load_video_tail`, with the file's digest and what was done to its pixels. Without `keep_pixels` the video is
    only checked, and `pixels` is empty."""
    assert num_frames > 0 and width > 0 and height > 0
    with fetched_file(uri, max_bytes=limits.max_video_bytes, limits=limits) as path:
        source = SourceVideo.describe(path, uri=uri, fps=fps, limits=limits)
        frames = decode_tail(source, num_frames, width=width, height=height, fit=fit, keep_pixels=keep_pixels)
        return OpenedInput(pixels=frames, sha256=_sha256(path), notes=source.notes)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
