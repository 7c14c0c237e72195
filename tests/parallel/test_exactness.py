"""A group renders what one rank and diffusers render, whatever its shape; the same shape twice, the same bits.

`EVERY_GROUP=1` (`make groups`) has every shape render every film, and compares all of them with diffusers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SkyReelsV2ImageToVideoPipeline

from render_farm.engine import load_engine
from render_farm.engine.calibrate import measure_magnitudes, save_magnitudes
from render_farm.job import RenderJob
from render_farm.parallel import GroupShape
from tests.helpers.ranks import RankFailed, RankPool, rank_pool
from tests.helpers.reference import build_pipeline, load_pipeline, pipeline_for, render_reference
from tests.helpers.repaired import RepairedImagePipeline
from tests.parallel.films import (
    BLOCKS,
    FILMS,
    WINDOWS,
    engine_of,
    inputs_of,
    make_job,
    render,
    render_counted,
    render_here,
)

TOLERANCE = 1e-4

SHAPES = [
    GroupShape(),
    GroupShape(ulysses=2),
    GroupShape(ring=2),
    GroupShape(cfg=2),
    GroupShape(ulysses=3),
    GroupShape(ulysses=4),
    GroupShape(ulysses=2, ring=2),
    GroupShape(ring=4),
    GroupShape(cfg=2, ulysses=3),
    GroupShape(ulysses=3, ring=2),
    GroupShape(cfg=2, ulysses=2, ring=2),
]
EVERY_FILM = [GroupShape(ulysses=2, ring=2), GroupShape(cfg=2, ulysses=2)]
"""Shapes that render every film; the others the hardest ones."""
HARDEST = ["synchronous", "blocks, cached"]
WITH_DIFFUSERS = ["blocks, cached", "full blocks, noise on the prefix at every step", "distilled, blocks"]
NEEDS_ALL_BRANCHES_HERE = {("guidance_scale", 1.0), ("cache", "guidance:0.5")}
EVERY_GROUP = os.environ.get("EVERY_GROUP", "") not in ("", "0")


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with rank_pool(8) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 heads: shared by 2, 3, 4, 6 and 12 ranks."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("model")
    build_pipeline(num_layers=2, num_attention_heads=12).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, np.ndarray]:
    """Every film as one rank renders it."""
    return {name: render(engine_of(folder), make_job(name)) for name in FILMS}


@pytest.fixture(scope="module")
def of_diffusers(folder: Path) -> dict[str, np.ndarray]:
    """The films that are compared with it too."""
    names = [name for name, film in FILMS.items() if "drift" not in film] if EVERY_GROUP else WITH_DIFFUSERS
    return {name: _of_diffusers(folder, make_job(name)) for name in names}


def _of_diffusers(folder: Path, job: RenderJob) -> np.ndarray:
    """In long films with a last image by the pipeline in which the lines that fail there are repaired."""
    task = job.task or "t2v"
    pipeline: Any = load_pipeline(folder, torch.float32)
    pipeline = pipeline_for(pipeline, task, RepairedImagePipeline if task == "flf2v" else None)
    return render_reference(pipeline, engine_of(folder).plan(job), inputs=inputs_of(job)).numpy()


def names_for(shape: GroupShape) -> list[str]:
    names = list(FILMS) if EVERY_GROUP or shape in EVERY_FILM else HARDEST
    return [name for name in names if shape.cfg == 1 or not NEEDS_ALL_BRANCHES_HERE & set(FILMS[name].items())]


@pytest.mark.parametrize("shape", [*SHAPES, GroupShape(cfg=2, ulysses=2)], ids=str)
def test_a_group_renders_what_one_rank_and_diffusers_render(
    shape: GroupShape,
    pool: RankPool,
    folder: Path,
    alone: dict[str, np.ndarray],
    of_diffusers: dict[str, np.ndarray],
) -> None:
    names = names_for(shape)
    films = pool.in_group(shape, render_here, folder, [make_job(name) for name in names])
    for expected in (alone, of_diffusers):
        differences = {
            name: float(np.abs(film - expected[name]).max())
            for name, film in zip(names, films[0], strict=True)
            if name in expected
        }
        assert max(differences.values()) <= TOLERANCE, differences
    for other in films[1:]:
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(films[0], other, strict=True))


@pytest.mark.parametrize("shape", [GroupShape(ulysses=2, ring=2), GroupShape(cfg=2, ring=2)], ids=str)
def test_the_same_shape_twice_gives_the_same_bits(shape: GroupShape, pool: RankPool, folder: Path) -> None:
    jobs = [make_job("blocks, cached"), make_job("synchronous"), make_job("two windows, drift")]
    first = pool.in_group(shape, render_here, folder, jobs)[0]
    second = pool.in_group(shape, render_here, folder, jobs)[0]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("size", [(32, 32), (32, 80)])
def test_any_number_of_tokens(size: tuple[int, int], pool: RankPool, folder: Path) -> None:
    """4 and 10 tokens a frame on 4 and 8 ranks: some hold padding, some nothing else."""
    job = make_job("blocks, cached", height=size[0], width=size[1])
    expected = render(engine_of(folder), job)
    for shape in (GroupShape(ring=4), GroupShape(ulysses=4, ring=2)):
        film = pool.in_group(shape, render_here, folder, [job])[0][0]
        assert np.abs(film - expected).max() <= TOLERANCE, shape


def test_cfg_parallel_without_guidance_is_refused(pool: RankPool, folder: Path) -> None:
    job = make_job("synchronous, two windows, guidance off")
    with pytest.raises(RankFailed, match="use cfg 1 where guidance is off"):
        pool.in_group(GroupShape(cfg=2), render_here, folder, [job])


CACHED = {"first_block:0.8": {"num_frames": 17}, "mag:0.1:retain=0": {"num_frames": 57, **WINDOWS, **BLOCKS}}


def test_a_step_cache_skips_in_a_group_what_it_skips_on_one_rank(pool: RankPool, tmp_path: Path) -> None:
    """15 tokens a frame on 4 ranks: what padding holds must not count. The branch without prompt changes most, and with
    cfg 2 it is on other ranks."""
    build_pipeline(num_layers=2, num_attention_heads=4).save_pretrained(tmp_path)
    plain = load_engine(tmp_path, device="cpu", dtype="float32")
    found = measure_magnitudes(plain, make_job("synchronous", num_inference_steps=8))
    save_magnitudes(
        tmp_path, replace(found, branches=(found.branches[0], tuple(value**1.5 for value in found.branches[1])))
    )
    jobs = [make_job("synchronous", **film, num_inference_steps=8, cache=cache) for cache, film in CACHED.items()]
    alone = render_counted(None, tmp_path, jobs)
    assert all(skipped > 0 for _, skipped in alone)
    for shape in (GroupShape(cfg=2, ulysses=2), GroupShape(ulysses=2, ring=2)):
        for (ours, counted), (expected, skipped) in zip(
            pool.in_group(shape, render_counted, tmp_path, jobs)[0], alone, strict=True
        ):
            assert counted == skipped, shape
            assert np.abs(ours - expected).max() <= TOLERANCE, shape


IMAGE_MODELS: dict[str, dict[str, Any]] = {"i2v": {}, "flf2v": {"pos_embed_seq_len": 2 * 17}}
"""Checkpoints that attend to the images' tokens, and what their transformers have besides."""


@pytest.mark.parametrize("task", IMAGE_MODELS)
def test_models_that_attend_to_images(task: str, pool: RankPool, tmp_path: Path) -> None:
    pipeline = build_pipeline(2, sample_info=False, cls=SkyReelsV2ImageToVideoPipeline, **IMAGE_MODELS[task])
    pipeline.save_pretrained(tmp_path)
    jobs = [make_job("image", task=task, num_frames=17)]
    expected = render_here(None, tmp_path, jobs)[0]
    for shape in (GroupShape(cfg=2, ulysses=2), GroupShape(ulysses=2, ring=2)):
        film = pool.in_group(shape, render_here, tmp_path, jobs)[0][0]
        assert np.abs(film - expected).max() <= TOLERANCE, shape
