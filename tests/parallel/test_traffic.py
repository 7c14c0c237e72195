"""A step sends what the formula says, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from render_farm.engine import load_engine
from render_farm.parallel import GroupShape, ParallelGroup
from render_farm.parallel.decoding import RowDecoder
from render_farm.parallel.measure import expected_bytes
from render_farm.parallel.traffic import GroupTraffic
from render_farm.planning.decoding import decoding_work
from render_farm.planning.model_sizes import VaeSizes
from tests.helpers.ranks import RankPool, rank_pool
from tests.helpers.reference import build_pipeline
from tests.parallel.films import make_job


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with rank_pool(4) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    build_pipeline(num_layers=3, num_attention_heads=4).save_pretrained(path)
    return path


def one_step(group: ParallelGroup, folder: Path) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    engine: Any = load_engine(folder, device="cpu", dtype="float32")
    plan = engine.plan(make_job("synchronous", num_inference_steps=1))
    embeddings = engine.encode_prompts(plan.texts)
    with torch.inference_mode(), GroupTraffic() as traffic:
        engine.render_segment(plan, 0, history=None, embeddings=embeddings, group=group)
    sent = {name: count for name, count in traffic.sent_bytes.items() if count}
    return sent, expected_bytes(engine, plan, group.shape), dict(traffic.num_exchanges)


@pytest.mark.parametrize(
    "shape",
    [
        GroupShape(ulysses=4),
        GroupShape(ring=4),
        GroupShape(ulysses=2, ring=2),
        GroupShape(cfg=2, ulysses=2),
        GroupShape(cfg=2, ring=2),
    ],
    ids=str,
)
def test_a_step_sends_what_the_formula_says(shape: GroupShape, pool: RankPool, folder: Path) -> None:
    for sent, expected, exchanges in pool.in_group(shape, one_step, folder):
        assert sent == expected
        assert exchanges["predictions"] == 1, "the branches meet once a step"
        assert set(expected) == {
            "predictions",
            *(["ulysses"] if shape.ulysses > 1 else []),
            *(["ring"] if shape.ring > 1 else []),
            *(["first_layer"] if shape.cfg > 1 else []),
        }


def decode_one_frame(group: ParallelGroup, folder: Path) -> int:
    engine: Any = load_engine(folder, device="cpu", dtype="float32")
    rows = RowDecoder(engine.vae, rank=group.rank, num_ranks=group.num_ranks)
    latents = torch.randn(1, 16, 3, 6, 10)
    with rows.joined(group):
        rows.decode(latents[:, :, :1])
        rows.decode(latents[:, :, 1:2])
        with GroupTraffic() as traffic:
            rows.decode(latents[:, :, 2:])
    return traffic.sent_bytes["rows"]


def test_decoding_a_latent_frame_sends_what_the_formula_says(pool: RankPool, folder: Path) -> None:
    config = dict(load_engine(folder, device="cpu", dtype="float32").vae.config)
    work = decoding_work(VaeSizes.from_config(config), height=48, width=80)
    sent = pool.in_group(GroupShape(ulysses=3), decode_one_frame, folder)
    assert sent == [work.row_bytes, 2 * work.row_bytes, work.row_bytes]
