"""Every memory mode on a fake GPU, with and without LoRAs: weights and denoising together take what planning counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from render_farm.engine.lora.branches import Adapters, WeightedLora
from render_farm.engine.lora.linear_layers import linear_shapes
from render_farm.engine.lora.weights import Lora, LowRank
from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.engine.weights.offloading import convert_weights, place
from render_farm.memory_mode import parse_memory
from render_farm.planning import FilmPlan
from render_farm.planning.memory import activation_bytes
from render_farm.planning.memory_modes import transformer_bytes
from render_farm.planning.model_sizes import ModelSizes
from tests.helpers.dry_run import LAYERS, DryRun, dry_run, fake_transfers, fake_transformer, film

GPU = torch.device("cuda", 0)
"""A fake GPU knows no present device, so one without a number is another one, and tensors are copied to it."""
PLACEMENTS = ("resident", "offload_block", "offload_leaf", "offload_disk")
LORA_MODES, RANK = ("resident", "offload_block", "offload_leaf", "resident+fp8_cast"), 64
MODES = [*PLACEMENTS, *(f"{placement}+fp8_cast" for placement in PLACEMENTS)]


def placed(memory: str) -> Callable[[FrameTransformer], None]:
    """As the engine brings weights, which lie on the CPU, into a mode."""

    def prepare(model: FrameTransformer) -> None:
        mode = parse_memory(memory)
        convert_weights(model, mode.weights, device=GPU)
        place(model, mode.placement, device=GPU)

    return prepare


@pytest.mark.slow
@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("name", ["df-1.3b-540p", "i2v-14b-720p"])
def test_a_window_in_a_memory_mode(name: str, memory: str) -> None:
    plan, sizes = film(name, "t2v" if name[0] == "d" else "i2v", "synchronous")
    with fake_transfers():
        counted = dry_run(fake_transformer(name, num_layers=LAYERS, device="cpu"), plan, prepare=placed(memory))
    check(plan, sizes, memory, counted, adapter_bytes=0)


def adapters(model: FrameTransformer, num_ranks: int) -> Adapters:
    """A LoRA on each linear layer of `model`."""
    layers = {
        name: LowRank(down=torch.empty(num_ranks, inputs), up=torch.empty(outputs, num_ranks), scale=1.0)
        for name, (outputs, inputs) in linear_shapes(model).items()
    }
    found = Adapters(device=GPU, dtype=torch.bfloat16)
    found.use(model, [WeightedLora(lora=Lora(sha256="a", layers=layers), weight=1.0)])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("memory", LORA_MODES)
@pytest.mark.parametrize("name", ["df-1.3b-540p", "i2v-14b-720p"])
def test_a_window_with_loras(name: str, memory: str) -> None:
    plan, sizes = film(name, "t2v" if name[0] == "d" else "i2v", "synchronous")
    attached: list[Adapters] = []

    def prepare(model: FrameTransformer) -> None:
        placed(memory)(model)
        attached.append(adapters(model, RANK))

    with fake_transfers():
        counted = dry_run(fake_transformer(name, num_layers=LAYERS, device="cpu"), plan, prepare=prepare)
    check(plan, sizes, memory, counted, adapter_bytes=attached[0].num_bytes)


def check(plan: FilmPlan, sizes: ModelSizes, memory: str, counted: DryRun, *, adapter_bytes: int) -> None:
    expected = transformer_bytes(sizes.transformer, parse_memory(memory), 2) + adapter_bytes
    expected += activation_bytes(plan, 0, sizes.transformer)
    print(f"{plan.spec.name} {memory}: peak {counted.peak_bytes / 1e9:.3f} GB, expected {expected / 1e9:.3f}")
    assert expected == pytest.approx(counted.peak_bytes, rel=0.05)
