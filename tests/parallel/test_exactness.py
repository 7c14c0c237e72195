"""A group renders what one rank renders, whatever its shape; the same shape twice, the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from render_farm.parallel import GroupShape
from tests.parallel.films import FILMS, engine_of, inputs_of, make_job, render, render_here
from tests.parallel.ranks import RankFailed, RankPool, rank_pool
from tests.parity.reference import build_pipeline, load_pipeline, pipeline_for, render_reference

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


def names_for(shape: GroupShape) -> list[str]:
    names = list(FILMS) if shape in EVERY_FILM else HARDEST
    return [name for name in names if shape.cfg == 1 or make_job(name).guidance_scale != 1.0]


@pytest.mark.parametrize("shape", [*SHAPES, GroupShape(cfg=2, ulysses=2)], ids=str)
def test_a_group_renders_what_one_rank_renders(
    shape: GroupShape, pool: RankPool, folder: Path, alone: dict[str, np.ndarray]
) -> None:
    names = names_for(shape)
    films = pool.in_group(shape, render_here, folder, [make_job(name) for name in names])
    differences = {name: float(np.abs(film - alone[name]).max()) for name, film in zip(names, films[0], strict=True)}
    assert max(differences.values()) <= TOLERANCE, differences
    for other in films[1:]:
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(films[0], other, strict=True))


def test_a_group_renders_what_diffusers_renders(pool: RankPool, folder: Path) -> None:
    pipeline: Any = load_pipeline(folder, torch.float32)
    job = make_job("blocks, cached")
    theirs = render_reference(pipeline_for(pipeline, "t2v"), engine_of(folder).plan(job), inputs=inputs_of(job))
    ours = pool.in_group(GroupShape(cfg=2, ulysses=2), render_here, folder, [job])[0][0]
    assert np.abs(ours - theirs.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize("shape", [GroupShape(ulysses=2, ring=2), GroupShape(cfg=2, ring=2)], ids=str)
def test_the_same_shape_twice_gives_the_same_bits(shape: GroupShape, pool: RankPool, folder: Path) -> None:
    jobs = [make_job("blocks, cached"), make_job("synchronous")]
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


def test_cfg_needs_guidance(pool: RankPool, folder: Path) -> None:
    job = make_job("synchronous, two windows, guidance off")
    with pytest.raises(RankFailed, match="use cfg 1 where guidance is off"):
        pool.in_group(GroupShape(cfg=2), render_here, folder, [job])
