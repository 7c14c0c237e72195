"""The inputs of a job that is rendered here: read from their URIs, or taken as pixels from the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from render_farm.engine.conditioning.conditioning import Inputs
from render_farm.media.limits import InputLimits
from render_farm.planning import FilmPlan


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadInputs:
    """A film's inputs, ready to be encoded."""

    pixels: Inputs
    digests: dict[str, str]
    """Column to sha256 in hex, for the render key."""
    lead_in: Callable[[], Iterator[np.ndarray]] | None
    """Makes an iterator over the frames of the video that the film extends."""


def given_inputs(pixels: Inputs) -> ReadInputs:
    """Inputs that come as pixels. All frames of `pixels.video` are taken for the whole input video."""
    video = pixels.video
    return ReadInputs(pixels=pixels, digests=pixels.digests(), lead_in=None if video is None else lambda: iter(video))


def read_film_inputs(plan: FilmPlan, limits: InputLimits, pixels: Inputs | None = None) -> dict[int, ReadInputs]:
    """The inputs of every take that has some, by the segment with which it starts. `pixels` are those of the film's
    own. The digests have the names that the whole film's job gives its inputs. Raises `InputError`."""
    found: dict[int, ReadInputs] = {}
    for window in plan.windows:
        take = plan.take_of(window.index)[0] if window.starts_take else None
        if take is None or not take.job.inputs:
            continue
        read = given_inputs(pixels) if pixels is not None and not window.index else read_inputs(take, limits)
        digests = {plan.job.input_name(window.index, column): sha256 for column, sha256 in read.digests.items()}
        found[window.index] = replace(read, digests=digests)
    return found


def read_inputs(plan: FilmPlan, limits: InputLimits) -> ReadInputs:
    """Read the inputs of a take (`FilmPlan.take_of`) from their URIs, at the job's size. Raises `InputError` for what
    cannot be used."""
    from render_farm.media.inputs import fitted, open_image, open_video_tail
    from render_farm.media.whole_video import read_video

    job = plan.job
    size: dict[str, Any] = {"width": job.width, "height": job.height, "fit": job.fit}
    pixels: dict[str, np.ndarray] = {}
    digests: dict[str, str] = {}
    for name, uri in job.inputs.items():
        if name == "video":
            tail = open_video_tail(uri, job.overlap_history, **size, fps=job.fps, limits=limits)
            pixels[name], digests[name] = tail.pixels, tail.sha256
            continue
        picture = open_image(uri, limits)
        pixels[name], digests[name] = fitted(picture.pixels, **size), picture.sha256
        if job.fit == "stretch":  # as diffusers, whose image encoder is given the picture as it is
            pixels[f"whole_{name}"] = picture.pixels
    return ReadInputs(
        pixels=Inputs(**pixels),
        digests=digests,
        lead_in=partial(read_video, job.video, **size, fps=job.fps, limits=limits) if job.video else None,
    )
