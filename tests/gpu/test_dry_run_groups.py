"""Every rank of a group of eight on a fake GPU, with exchanges that go nowhere: memory and bytes are as planned."""

from __future__ import annotations

import pytest
import torch

from render_farm.engine.transformer.attention import AttentionCall, BlockCausalAttention
from render_farm.engine.transformer.attention_backends import BACKENDS
from render_farm.engine.transformer.span import FrameSpan
from render_farm.planning.group_cost import rank_bytes, step_work
from render_farm.planning.groups import GroupShape
from render_farm.planning.memory import activation_bytes, window_cache_bytes
from tests.helpers.dry_run import FAKE, LAYERS, DryRun, allow_fake_gpus, dry_run, fake_group, fake_transformer, film

EIGHT = GroupShape(cfg=2, ulysses=4)
CASES = [
    ("df-1.3b-540p", "t2v", "synchronous"),
    ("df-14b-720p", "t2v", "causal blocks"),
    ("i2v-14b-720p", "i2v", "synchronous"),
]
RANKS = [pytest.param(*case, rank, marks=pytest.mark.slow) for case in CASES for rank in range(EIGHT.size)]


@pytest.mark.parametrize(("name", "task", "mode", "rank"), RANKS)
def test_a_rank_of_a_group(name: str, task: str, mode: str, rank: int) -> None:
    plan, sizes = film(name, task, mode)
    with fake_group(EIGHT, rank) as group:
        counted = dry_run(fake_transformer(name, num_layers=LAYERS), plan, group=group)
    expected = activation_bytes(plan, 0, sizes.transformer, shape=EIGHT)
    expected += window_cache_bytes(plan, 0, sizes.transformer, shape=EIGHT)
    print(f"{name} {mode} rank {rank}: peak {counted.peak_bytes / 1e9:.2f} GB, expected {expected / 1e9:.2f}")
    assert expected == pytest.approx(counted.peak_bytes, rel=0.05)
    if mode == "synchronous":
        sent, num_steps = rank_bytes(step_work(plan, sizes.transformer), EIGHT), plan.schedule(0).num_rows
        others = EIGHT.ulysses - 1
        assert counted.sent["all_to_all_single"] * others == num_steps * sent["ulysses"] * EIGHT.ulysses
        assert counted.sent["all_gather_into_tensor"] == num_steps * sent["first_layer"]
        assert counted.sent["_allgather_base_"] * (EIGHT.size - 1) == num_steps * sent["predictions"]


@pytest.mark.slow
def test_an_exchange_copies_each_tensor_before_and_after_it() -> None:
    allow_fake_gpus()
    shape = GroupShape(ulysses=4)
    alone = BlockCausalAttention(BACKENDS["torch_flash"].make())
    span, width = FrameSpan(start=0, stop=25, output_start=0), 510
    call = AttentionCall(span=span, tokens_per_frame=width, cache=None, slot=(1, 0))
    with fake_group(shape, 0) as group, FAKE:
        states = torch.empty((1, 25 * width, 40, 128), dtype=torch.bfloat16, device="cuda")
        with DryRun() as counted:
            out = group.attention(alone, 4 * width).attend(states, states, states, call)
    assert out.shape == states.shape
    assert counted.moved_bytes["elementwise"] == 4 * 2 * 2 * states.nbytes, "four tensors, each read and written twice"
