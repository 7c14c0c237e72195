"""Train the transformer and the text encoder together, on cached latents, with diffusion forcing.

x(level) = (1 - level) * clean + level * noise; the model predicts noise - clean; its timestep is int(1000 * level).
Shapes: latents B 16 F 8 8.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from render_farm.tiny.build import Architecture, build_text_encoder, build_tokenizer, build_transformer
from render_farm.tiny.fast_transformer import Text, make_text, predict_flow, start_transformer
from render_farm.tiny.forcing import Batch, ForcingConfig, draw_batch
from render_farm.tiny.latents import LatentClip, channel_statistics
from render_farm.tiny.loop import LoopConfig, Share, train

logger = logging.getLogger(__name__)

MAX_WORDS = 24
"""Tokens of the longest caption, end included, rounded up."""


class Denoiser(nn.Module):
    """Transformer and text encoder as one module, with the latents' statistics."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        transformer: SkyReelsV2Transformer3DModel,
        text_encoder: UMT5EncoderModel,
        mean: list[float],
        std: list[float],
    ) -> None:
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder
        self.tokenizer = build_tokenizer()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1, 1))

    def encode(self, captions: list[str]) -> Text:
        """Encode captions."""
        tokens = self.tokenizer(captions, padding=True, max_length=MAX_WORDS, truncation=True, return_tensors="pt")
        ids, mask = tokens.input_ids.to(self.mean.device), tokens.attention_mask.to(self.mean.device)
        return make_text(self.text_encoder(ids, mask).last_hidden_state, mask)

    def loss(self, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        """Return the flow-matching loss of one batch."""
        device = self.mean.device
        clean = (batch.windows.to(device) - self.mean) / self.std
        level = batch.levels.to(device)[:, None, :, None, None]
        mixed = (1 - level) * clean + level * noise
        timesteps = (batch.levels.to(device) * 1000).floor()
        flow = predict_flow(
            self.transformer,
            mixed,
            timesteps,
            self.encode(batch.captions),
            batch.fps_index.to(device),
            batch.block_size,
        )
        error = (flow - (noise - clean)).square().mean(dim=(1, 3, 4))  # B F
        weights = batch.weights.to(device)
        return {"loss": (error * weights).sum() / weights.sum()}


def train_transformer(
    architecture: Architecture,
    config: ForcingConfig,
    loop: LoopConfig,
    clips: list[LatentClip],
    folder: Path,
    device: torch.device,
    share: Share,
) -> Denoiser:
    """Train, resuming from `folder`/transformer.pt, and return the denoiser with its averaged weights."""
    torch.manual_seed(config.seed)
    transformer = build_transformer(architecture)
    start_transformer(transformer)
    denoiser = Denoiser(transformer, build_text_encoder(architecture), *channel_statistics(clips)).to(device).train()

    def step_loss(step: int) -> dict[str, Tensor]:
        batch = draw_batch(clips, config, step, step / loop.steps, share)
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 64 + share.rank)
        return denoiser.loss(batch, torch.randn(batch.windows.shape, generator=generator).to(device))

    denoiser.load_state_dict(train(denoiser, step_loss, folder / "transformer.pt", loop))
    return denoiser.eval()
