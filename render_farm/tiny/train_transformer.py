"""Train the transformer and the text encoder together, on cached latents, with diffusion forcing.

x(level) = (1 - level) * clean + level * noise; the model predicts noise - clean; its timestep is int(1000 * level).
Shapes: latents B 16 F 8 8.
"""

from __future__ import annotations

import json
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

    def clean(self, batch: Batch) -> Tensor:
        """Return a batch's windows, normalised."""
        return (batch.windows.to(self.mean.device) - self.mean) / self.std

    def flow(self, batch: Batch, mixed: Tensor, levels: Tensor, captions: list[str]) -> Tensor:
        """Return the predicted flow (noise - clean) of windows that are mixed with noise by `levels` B F."""
        device = self.mean.device
        with torch.autocast(device.type, torch.bfloat16):
            flow = predict_flow(
                self.transformer,
                mixed,
                (levels * 1000).floor(),
                self.encode(captions),
                batch.fps_index.to(device),
                batch.block_size,
                batch.places.to(device),
            )
        return flow.float()

    def loss(self, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        """Return the flow-matching loss of one batch."""
        clean, levels = self.clean(batch), batch.levels.to(self.mean.device)
        level = per_frame(levels)
        flow = self.flow(batch, (1 - level) * clean + level * noise, levels, batch.captions)
        return {"loss": weighted_error(flow, noise - clean, batch)}


def read_denoiser(checkpoint: Path) -> Denoiser:
    """Return the denoiser of a checkpoint in diffusers format, with its weights in single precision."""
    statistics = json.loads((checkpoint / "vae" / "config.json").read_text())
    return Denoiser(
        SkyReelsV2Transformer3DModel.from_pretrained(checkpoint / "transformer", torch_dtype=torch.float32),
        UMT5EncoderModel.from_pretrained(checkpoint / "text_encoder", dtype=torch.float32, trust_remote_code=False),
        statistics["latents_mean"],
        statistics["latents_std"],
    )


def per_frame(levels: Tensor) -> Tensor:
    """Return levels B F as B 1 F 1 1, to be multiplied with latents."""
    return levels[:, None, :, None, None]


def weighted_error(found: Tensor, wanted: Tensor, batch: Batch) -> Tensor:
    """Return the mean squared error over a batch's frames, by their weights."""
    error = (found - wanted).square().mean(dim=(1, 3, 4))  # B F
    weights = batch.weights.to(error)
    return (error * weights).sum() / weights.sum()


def train_transformer(
    architecture: Architecture,
    config: ForcingConfig,
    loop: LoopConfig,
    clips: list[LatentClip],
    folder: Path,
    device: torch.device,
    share: Share,
    start: Path | None = None,
) -> Denoiser:
    """Train, resuming from `folder`/transformer.pt, and return the denoiser with its averaged weights.

    The text encoder starts with random weights, or with those of the checkpoint `start`.
    """
    torch.manual_seed(config.seed)
    transformer = build_transformer(architecture)
    start_transformer(transformer)
    text_encoder = (
        UMT5EncoderModel.from_pretrained(start / "text_encoder", trust_remote_code=False)
        if start
        else build_text_encoder(architecture)
    )
    denoiser = Denoiser(transformer, text_encoder, *channel_statistics(clips)).to(device).train()

    def step_loss(step: int) -> dict[str, Tensor]:
        batch = draw_batch(clips, config, step, step / loop.steps, share)
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 64 + share.rank)
        return denoiser.loss(batch, torch.randn(batch.windows.shape, generator=generator).to(device))

    denoiser.load_state_dict(train(denoiser, step_loss, folder / "transformer.pt", loop))
    return denoiser.eval()
