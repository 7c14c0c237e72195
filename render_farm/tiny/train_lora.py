"""Train a LoRA for the finished transformer: a style, here shapes drawn as outlines, or films in four steps.

The transformer stays as it is; each attention and feed-forward layer gets a low-rank addition `up @ down` to its
weight. The style is trained with the transformer's own loss on latents of outlined clips whose captions do not say so.
For few steps, the transformer with the LoRA learns to say at once, at each level where sampler `distilled` asks it,
where the transformer alone arrives from there in many small steps with guidance.
Written in diffusers' format: `transformer.<layer>.lora_A.weight` (rank, in) and `lora_B.weight` (out, rank).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from render_farm.models import DISTILLED_DEFAULTS
from render_farm.planning.schedule import listed_sigmas
from render_farm.tiny.forcing import Batch, ForcingConfig, draw_batch, shifted
from render_farm.tiny.latents import LatentClip
from render_farm.tiny.loop import LoopConfig, Share, train
from render_farm.tiny.train_transformer import Denoiser, per_frame, read_denoiser, weighted_error

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")
"""Ends of the names of a block's linear layers that are adapted."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Size and start of the adapter."""

    rank: int = 8
    seed: int = 0
    teacher_steps: int = 0
    """How many steps the transformer alone takes to the sample that the LoRA learns to reach in one; 0: it learns the
    clips."""
    guidance: float = 2.0
    """The guidance of these steps, which the LoRA learns to do without."""


DISTILLED_LEVELS = listed_sigmas(DISTILLED_DEFAULTS["step_list"], DISTILLED_DEFAULTS["flow_shift"])[:-1]
"""Where sampler `distilled` asks for a prediction."""


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


def distilled_loss(
    teacher: Denoiser, student: Denoiser, batch: Batch, noise: Tensor, config: LoraConfig
) -> dict[str, Tensor]:
    """Return how far the student's clean sample is from the one that the teacher reaches in many steps."""
    levels = batch.levels.to(noise.device)
    mixed = (1 - per_frame(levels)) * student.clean(batch) + per_frame(levels) * noise
    with torch.no_grad():
        target, ratios = mixed, shifted(np.linspace(1, 0, config.teacher_steps + 1))
        for now, following in pairwise(ratios.tolist()):
            flow = teacher.flow(batch, target, now * levels, batch.captions)
            if config.guidance != 1:
                without = teacher.flow(batch, target, now * levels, [""] * len(batch.captions))
                flow = without + config.guidance * (flow - without)
            target = target - (now - following) * per_frame(levels) * flow
    reached = mixed - per_frame(levels) * student.flow(batch, mixed, levels, batch.captions)
    return {"loss": weighted_error(reached, target, batch)}


def lora_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a trained state's additions under diffusers' names."""
    tensors = {}
    for name, tensor in state.items():
        layer, _, part = name.partition(".parametrizations.weight.0.")
        if part in ("down", "up"):
            tensors[f"{layer}.lora_{'A' if part == 'down' else 'B'}.weight"] = tensor.contiguous()
    return tensors


def train_lora(
    base: Path,
    config: LoraConfig,
    forcing: ForcingConfig,
    loop: LoopConfig,
    clips: list[LatentClip],
    folder: Path,
    target: Path,
    device: torch.device,
    share: Share,
) -> None:
    """Train for the checkpoint `base`, resuming from the run's `folder`, and write `target`, a safetensors file."""
    teacher = read_denoiser(base).to(device).requires_grad_(False)
    denoiser = read_denoiser(base).to(device).train()
    adapt(denoiser, config)

    def step_loss(step: int) -> dict[str, Tensor]:
        batch = draw_batch(clips, forcing, step, 1.0 if loop.steps == 0 else step / loop.steps, share)
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 64 + share.rank)
        noise = torch.randn(batch.windows.shape, generator=generator).to(device)
        if config.teacher_steps:
            return distilled_loss(teacher, denoiser, batch, noise, config)
        return denoiser.loss(batch, noise)

    average = train(denoiser, step_loss, folder / f"lora-{target.stem}.pt", loop)
    if share.rank == 0:
        target.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.half().cpu() for name, tensor in lora_tensors(average).items()}
        save_file(tensors, target, metadata={"format": "pt", "rank": str(config.rank)})
