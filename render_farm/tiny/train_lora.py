"""Train a LoRA for the finished transformer: a style, here shapes drawn as outlines.

The transformer stays as it is; each attention and feed-forward layer gets a low-rank addition `up @ down` to its
weight, trained with the transformer's own loss on latents of outlined clips whose captions do not say so.
Written in diffusers' format: `transformer.<layer>.lora_A.weight` (rank, in) and `lora_B.weight` (out, rank).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from render_farm.tiny.build import Architecture, build_text_encoder, build_transformer
from render_farm.tiny.forcing import ForcingConfig, draw_batch
from render_farm.tiny.latents import LatentClip
from render_farm.tiny.loop import LoopConfig, Share, train
from render_farm.tiny.train_transformer import Denoiser

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")
"""Ends of the names of a block's linear layers that are adapted."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Size and start of the adapter."""

    rank: int = 8
    seed: int = 0


class TrainedLowRank(nn.Module):
    """A weight (out, in) plus `up @ down`; starts as the weight alone."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1], device=weight.device) * weight.shape[1] ** -0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.up @ self.down


def adapt(denoiser: Denoiser, config: LoraConfig) -> None:
    """Freeze the denoiser and give its blocks' layers trainable low-rank additions."""
    torch.manual_seed(config.seed)
    denoiser.requires_grad_(False)
    for name, layer in list(denoiser.transformer.blocks.named_modules()):
        if isinstance(layer, nn.Linear) and name.endswith(TARGETS):
            parametrize.register_parametrization(layer, "weight", TrainedLowRank(layer.weight, config.rank))


def lora_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a trained state's additions under diffusers' names."""
    tensors = {}
    for name, tensor in state.items():
        layer, _, part = name.partition(".parametrizations.weight.0.")
        if part in ("down", "up"):
            tensors[f"{layer}.lora_{'A' if part == 'down' else 'B'}.weight"] = tensor.contiguous()
    return tensors


def train_lora(
    architecture: Architecture,
    config: LoraConfig,
    forcing: ForcingConfig,
    loop: LoopConfig,
    clips: list[LatentClip],
    folder: Path,
    target: Path,
    device: torch.device,
    share: Share,
) -> None:
    """Train on `folder`/transformer.pt, resuming from `folder`/lora.pt, and write `target`, a safetensors file."""
    base = torch.load(folder / "transformer.pt", map_location="cpu", weights_only=True)["average"]
    denoiser = Denoiser(build_transformer(architecture), build_text_encoder(architecture), [0.0] * 16, [1.0] * 16)
    denoiser.load_state_dict(base)
    adapt(denoiser.to(device).train(), config)

    def step_loss(step: int) -> dict[str, Tensor]:
        batch = draw_batch(clips, forcing, step, 1.0 if loop.steps == 0 else step / loop.steps, share)
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 64 + share.rank)
        return denoiser.loss(batch, torch.randn(batch.windows.shape, generator=generator).to(device))

    average = train(denoiser, step_loss, folder / "lora.pt", loop)
    if share.rank == 0:
        target.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.half().cpu() for name, tensor in lora_tensors(average).items()}
        save_file(tensors, target, metadata={"format": "pt", "rank": str(config.rank)})
