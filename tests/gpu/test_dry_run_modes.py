"""Every memory mode on a fake GPU, with and without LoRAs: weights and denoising together take what planning counts."""

from __future__ import annotations

import pytest
import torch

from render_farm.engine.lora.branches import Adapters, WeightedLora
from render_farm.engine.lora.linear_layers import linear_shapes
from render_farm.engine.lora.weights import Lora, LowRank
from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.engine.weights.offloading import convert_weights, place
from render_farm.memory_mode import parse_memory
from render_farm.planning.memory import activation_bytes
from render_farm.planning.memory_modes import transformer_bytes
from tests.helpers.dry_run import LAYERS, dry_run, fake_transfers, fake_transformer, film

GPU = torch.device("cuda", 0)
"""A fake GPU knows no present device, so one without a number is another one, and tensors are copied to it."""
PLACEMENTS = ("resident", "offload_block", "offload_leaf", "offload_disk")
MODES = [*PLACEMENTS, *(f"{placement}+fp8_cast" for placement in PLACEMENTS)]
LORA_MODES, RANK = ("resident", "offload_block", "offload_leaf", "resident+fp8_cast"), 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "rank"),
    [*((mode, 0) for mode in MODES), *(pytest.param(mode, RANK, id=f"{mode}, lora") for mode in LORA_MODES)],
)
@pytest.mark.parametrize("name", ["df-1.3b-540p", "i2v-14b-720p"])
def test_a_window_in_a_memory_mode(name: str, memory: str, rank: int) -> None:
    plan, sizes = film(name, "t2v" if name[0] == "d" else "i2v", "synchronous")
    mode, adapters = parse_memory(memory), Adapters(device=GPU, dtype=torch.bfloat16)

    def prepare(model: FrameTransformer) -> None:
        """As the engine brings weights, which lie on the CPU, into a mode."""
        convert_weights(model, mode.weights, device=GPU)
        place(model, mode.placement, device=GPU)
        if rank:
            adapters.use(model, [WeightedLora(lora=lora_on_every_layer(model, rank), weight=1.0)])

    with fake_transfers():
        counted = dry_run(fake_transformer(name, num_layers=LAYERS, device="cpu"), plan, prepare=prepare)
    expected = transformer_bytes(sizes.transformer, mode, 2) + activation_bytes(plan, 0, sizes.transformer)
    expected += adapters.num_bytes
    print(f"{name} {memory}: peak {counted.peak_bytes / 1e9:.3f} GB, expected {expected / 1e9:.3f}")
    assert expected == pytest.approx(counted.peak_bytes, rel=0.05)


def lora_on_every_layer(model: FrameTransformer, rank: int) -> Lora:
    layers = {
        name: LowRank(down=torch.empty(rank, inputs), up=torch.empty(outputs, rank), scale=1.0)
        for name, (outputs, inputs) in linear_shapes(model).items()
    }
    return Lora(sha256="a", layers=layers)
