"""The films that are rendered to verify a model: short, and of two segments, in each mode and task that it serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from render_farm.engine.conditioning.conditioning import Inputs
from render_farm.job import RenderJob
from render_farm.planning import ModelSpec

OVERLAP = 17
_ASYNCHRONOUS = {"causal_block_size": 5, "ar_step": 2}
_SYNCHRONOUS = {"causal_block_size": 1, "ar_step": 0}
_PROMPT = "a red circle moving right on a black background"
_NEGATIVE = "blurry, low quality"


@dataclass(frozen=True, kw_only=True)
class VerifyFilm:
    """One film and its inputs."""

    name: str
    job: RenderJob
    inputs: Inputs | None = None
    without_reference: str = ""
    """Why diffusers cannot render it; then it is only rendered here."""


def films(
    spec: ModelSpec, *, tasks: Sequence[str], num_frames: int, num_inference_steps: int, height: int, width: int
) -> Iterator[VerifyFilm]:
    """Films of `tasks` for a model. `num_frames` (pixel frames) is a whole window's; a second segment adds all but the
    overlap. Deterministic."""
    size: dict[str, Any] = {
        "height": height,
        "width": width,
        "num_inference_steps": num_inference_steps,
        "base_num_frames": num_frames,
    }
    modes = {"sync": _SYNCHRONOUS} | ({"async": _ASYNCHRONOUS} if spec.renders_windows else {})
    long = 2 * num_frames - OVERLAP
    for task in tasks:
        inputs = make_inputs(task, height=height, width=width)
        for mode, parameters in modes.items():
            if mode == "async" and task != "t2v":
                continue  # image tasks go without blocks, and an extended video is a film that began with a prefix
            for segments, length in ((1, num_frames), (2, long)):
                if segments == 2 and (not spec.renders_windows or task == "v2v"):
                    continue
                missing = "diffusers fails on a last image in a long film" if (task, segments) == ("flf2v", 2) else ""
                yield VerifyFilm(
                    name=f"{task} {mode}, {segments} segment{'s' if segments > 1 else ''}",
                    job=_job(task, num_frames=length, **size, **parameters),
                    inputs=inputs,
                    without_reference=missing,
                )


def _job(task: str, **parameters: Any) -> RenderJob:
    uris: dict[str, Any] = {
        "i2v": {"image": "first.png"},
        "flf2v": {"image": "first.png", "last_image": "last.png"},
        "v2v": {"video": "video.mp4"},
    }.get(task, {})
    return RenderJob(
        job_id="verify",
        prompt=_PROMPT,
        negative_prompt=_NEGATIVE,
        seed=20,
        overlap_history=OVERLAP,
        fit="stretch",
        keep_overlap=True if task == "v2v" else None,
        **uris,
        **parameters,
    )


def make_inputs(task: str, *, height: int, width: int) -> Inputs | None:
    """Pictures that `task` takes: a disc on a gradient, which moves."""
    if task == "t2v":
        return None
    y, x = np.mgrid[0:height, 0:width]

    def picture(shift: float) -> np.ndarray:
        disc = np.hypot(x - width * (0.2 + shift), y - height * 0.5) < height * 0.2
        background = np.stack([40 + 60 * x / width, 40 + 60 * y / height, np.full(x.shape, 90.0)], axis=-1)
        return np.where(disc[..., None], np.array([220.0, 40.0, 40.0]), background).astype(np.uint8)

    if task == "v2v":
        return Inputs(video=np.stack([picture(0.02 * frame) for frame in range(OVERLAP)]))
    return Inputs(image=picture(0.0), last_image=picture(0.5) if task == "flf2v" else None)
