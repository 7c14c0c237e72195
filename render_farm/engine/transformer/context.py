"""What the passes of one window share (`WindowContext`) and what one pass adds to it (`PassContext`).

Shapes: B batch (1), F latent frames, S tokens, H heads, D channels of a head, E channels of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from render_farm.engine.transformer.attention import AttentionBackend, SelfAttention
from render_farm.engine.transformer.group import RenderGroup, SingleRank
from render_farm.engine.transformer.kv_cache import KeyValueCache, Slot
from render_farm.engine.transformer.rope import RopeTable
from render_farm.engine.transformer.span import FrameSpan

Streams = tuple[Tensor, ...]
"""Hidden states (B S E): one per guidance branch, or one for all of them before the first layer."""


class RunLayers(Protocol):
    """The transformer's layers [first, end) on `streams`; after the last, only the tokens of the output frames."""

    def __call__(self, streams: Streams, first: int, end: int) -> Streams: ...


class StepCache(Protocol):
    """Stands between the transformer's forward and its layers, for one window."""

    num_skipped: int
    """Passes so far in which the layers (of `first_block`, those after the first) did not run."""

    def run(self, hidden: Tensor, num_layers: int, layers: RunLayers, ctx: PassContext) -> Streams:
        """The hidden states (B S E) of the span's output frames after all layers, for each branch."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """A prompt's embedding as cross-attention takes it."""

    embedding: Tensor
    """(B, S, channels of the text encoder)."""
    bias: Tensor | None = None
    """(S), added to the scores of its keys."""


def prompt_tokens(embedding: Tensor, *, merge_padding: bool) -> PromptTokens:
    """Prepare `embedding` (B, S, channels), whose unused rows at the end are zero.

    All those rows have the same key and value, so n of them equal one whose score is raised by log(n): exact, and a
    prompt of 20 tokens then has 21 keys instead of 512. Worth it where attention takes a bias at no cost (`bias` rules
    out flash attention on CUDA, where 512 keys are few compared with the video's).
    """
    if not merge_padding:
        return PromptTokens(embedding=embedding)
    used_rows = embedding.ne(0).any(dim=2).any(dim=0).nonzero()
    num_used = int(used_rows[-1]) + 1 if len(used_rows) else 0
    num_padding = embedding.shape[1] - num_used
    if num_padding < 2:
        return PromptTokens(embedding=embedding)
    bias = torch.zeros(num_used + 1, dtype=embedding.dtype, device=embedding.device)
    bias[-1] = math.log(num_padding)
    return PromptTokens(embedding=embedding[:, : num_used + 1].contiguous(), bias=bias)


@dataclass(frozen=True, kw_only=True)
class TextKeys:
    """A prompt's or the images' keys and values in one layer, (B S H D)."""

    key: Tensor
    value: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class WindowContext:
    """Fixed for a window; the states and keys of texts and images are filled by a pass and read by those after it."""

    prompts: tuple[PromptTokens, ...]
    """One for each guidance branch that is computed here."""
    first_branch: int = 0
    """Which of the guidance branches the first of them is."""
    rope: RopeTable
    """Of the tokens that are computed here."""
    tokens_per_frame: int
    """On all ranks of the group."""
    sample_info: int
    """0 for 16 frames a second, 1 for any other, as the pipeline maps `fps`."""
    attention: SelfAttention
    cross_attention: AttentionBackend
    cache: KeyValueCache | None = None
    """None when nothing in this window is final before its end."""
    group: RenderGroup = field(default_factory=SingleRank)
    """The group that computes the other tokens and branches."""
    step_cache: StepCache | None = None
    """Approximate; None computes every layer in every pass."""
    caches_text_states: bool = True
    """False has every pass compute the states and keys of texts and images again."""
    text_states: list[Tensor] = field(default_factory=list)
    """Per branch, (B S E)."""
    text_keys: dict[Slot, TextKeys] = field(default_factory=dict)
    images: Tensor | None = None
    """States of the images (N S D) from the image encoder, for checkpoints that attend to them; the same in every
    branch."""
    image_states: list[Tensor] = field(default_factory=list)
    """One (B S E), all images in a row."""
    image_keys: dict[int, TextKeys] = field(default_factory=dict)
    """By layer."""


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """One pass over the frames of `span`."""

    window: WindowContext
    span: FrameSpan
    num_branches: int
    """How many of the window's guidance branches it computes."""
    rope: RopeTable
    """Of the span's tokens."""
    modulation: Tensor
    """(B F 6 E) float32: shift, scale, gate of self-attention, then of the feed-forward."""

    @property
    def tokens_per_frame(self) -> int:
        return self.rope.tokens_per_frame
