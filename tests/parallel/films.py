"""What the ranks of the exactness tests run: whole films with a group, from a small random checkpoint."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from render_farm.engine import Engine, Inputs, StepProgress, load_engine
from render_farm.engine.transformer.group import RenderGroup
from render_farm.job import RenderJob
from render_farm.planning import FilmPlan
from tests.helpers.reference import make_inputs

HEIGHT, WIDTH = 48, 80
"""15 tokens a frame: divided by 3 and 5 only."""
WINDOWS = {"base_num_frames": 37, "overlap_history": 17}
BLOCKS = {"causal_block_size": 5, "ar_step": 2}

FILMS: dict[str, dict[str, Any]] = {
    "synchronous": {"num_frames": 17},
    "synchronous, two windows, guidance off": {"num_frames": 57, **WINDOWS, "guidance_scale": 1.0},
    "blocks, cached": {"num_frames": 57, **WINDOWS, **BLOCKS},
    "blocks, noise on the prefix at every step": {"num_frames": 57, **WINDOWS, **BLOCKS, "addnoise_condition": 20},
    "full blocks, noise on the prefix at every step": {
        "num_frames": 57,
        **WINDOWS,
        **BLOCKS,
        "block_attention": "full",
        "addnoise_condition": 20,
    },
    "distilled, blocks": {
        "num_frames": 57,
        **WINDOWS,
        **BLOCKS,
        "sampler": "distilled",
        "num_inference_steps": None,
        "guidance_scale": 3.0,
    },
    "guidance in part, blocks": {
        "num_frames": 57,
        **WINDOWS,
        **BLOCKS,
        "num_inference_steps": 4,
        "cache": "guidance:0.5",
    },
    "two windows, drift": {"num_frames": 57, **WINDOWS, "drift": "adain:0.5"},
    "lag without blocks": {"num_frames": 17, "ar_step": 1},
    "image": {"num_frames": 21, "task": "i2v"},
    "first and last image, two windows": {"num_frames": 53, **WINDOWS, "task": "flf2v"},
    "video, blocks": {"num_frames": 57, **WINDOWS, **BLOCKS, "task": "v2v"},
}


def make_job(name: str, **changes: Any) -> RenderJob:
    values = {
        "job_id": "group",
        "prompt": "a red ball moves left over grass",
        "negative_prompt": "sand at night",
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": 2,
        "flow_shift": 3.0,
        "seed": 5,
    }
    values |= FILMS[name] | changes
    given = {"i2v": ["image"], "flf2v": ["image", "last_image"], "v2v": ["video"]}.get(values.get("task", "t2v"), [])
    return RenderJob(**values, **dict.fromkeys(given, "memory://input"))


def inputs_of(job: RenderJob) -> Inputs | None:
    if job.task in (None, "t2v"):
        return None
    return make_inputs(job.task, num_frames=21, height=HEIGHT, width=WIDTH)


@cache
def engine_of(folder: Path) -> Engine:
    return load_engine(folder, device="cpu", dtype="float32")


def render(engine: Engine, job: RenderJob, group: RenderGroup | None = None, on_step: Any = None) -> np.ndarray:
    """A film's latents (1 C T h w), segment after segment as a worker renders them."""
    plan: FilmPlan = engine.plan(job)
    inputs = inputs_of(job)
    with torch.inference_mode():
        conditioning = engine.encode_conditioning(plan, inputs) if inputs else None
        embeddings = engine.encode_prompts(plan.texts)
        pieces: list[torch.Tensor] = []
        for window in plan.windows:
            history = torch.cat(pieces, dim=2)[:, :, -window.num_history_frames :] if pieces else None
            pieces.append(
                engine.render_segment(
                    plan,
                    window.index,
                    history=history,
                    embeddings=embeddings,
                    conditioning=conditioning,
                    first=pieces[0] if pieces else None,
                    group=group,
                    on_step=on_step,
                )
            )
    return torch.cat(pieces, dim=2).numpy()


def digest(latents: np.ndarray) -> str:
    return hashlib.sha256(latents.tobytes()).hexdigest()


def render_here(group: RenderGroup | None, folder: Path, jobs: list[RenderJob]) -> list[np.ndarray]:
    """On a rank: the films' latents."""
    return [render(engine_of(folder), job, group) for job in jobs]


def render_counted(group: RenderGroup | None, folder: Path, jobs: list[RenderJob]) -> list[tuple[np.ndarray, int]]:
    """The films' latents, and how many steps the step cache skipped in all."""
    films = []
    for job in jobs:
        skipped: dict[int, int] = {}

        def on_step(progress: StepProgress, skipped: dict[int, int] = skipped) -> None:
            skipped[progress.segment] = progress.num_skipped

        films.append((render(engine_of(folder), job, group, on_step), sum(skipped.values())))
    return films
