"""What a diffusion-forcing step trains on: windows of latents, captions, and a noise level for every latent frame.

The windows are what the sampler meets: a film's start, or a later window whose first latent frames are history; with
the history clean or lightly noised, all frames alike, or noise that grows over causal blocks (asynchronous sampling).
Shapes: windows B 16 F 8 8, levels B F (1 is pure noise).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from render_farm.tiny.build import FLOW_SHIFT
from render_farm.tiny.latents import STRIDE, LatentClip
from render_farm.tiny.loop import Share

HISTORY = 5
"""Latent frames of history in most windows that have one (17 frames of overlap)."""
BLOCK = 5
"""Latent frames of a causal block."""


@dataclass(frozen=True, kw_only=True)
class ForcingConfig:
    """How steps are drawn; shares are probabilities."""

    latent_frames_per_step: int = 125
    """Latent frames of a batch, over all its windows."""
    lengths: tuple[tuple[float, tuple[tuple[int, int], ...]], ...] = (
        (0.7, ((25, 5), (25, 5), (25, 8), (10, 5))),
        (1.0, ((25, 25), (25, 25), (25, 8), (10, 10))),
    )
    """Up to which share of the training, pairs: a window's length in latent frames, and how many of them a step
    computes, each at its own place in time. A few at first: they say nearly as much as all of them, and a step then
    shows five times the captions."""
    causal_share: float = 0.35
    """Steps with the block-causal mask."""
    levels: tuple[float, ...] = ()
    """The noise levels that occur, alike for all frames but a clean history. Any level if empty."""
    history_share: float = 0.4
    """Windows with a clean or lightly noised history."""
    prompt_dropout: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step: clean windows B 16 F 8 8 (not normalised), levels and loss weights B F, captions, causal block size."""

    places: Tensor
    """Which latent frames of their windows these are (F,)."""
    windows: Tensor
    levels: Tensor
    weights: Tensor
    captions: list[str]
    block_size: int
    fps_index: Tensor


def shifted(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the sampler's shift to noise levels."""
    return FLOW_SHIFT * uniform / (1 + (FLOW_SHIFT - 1) * uniform)


def draw_levels(
    rng: np.random.Generator, frames: int, block_size: int, history: int, among: tuple[float, ...] = ()
) -> NDArray[np.float64]:
    """Draw the levels of one window (F,): the history's, then one for all, or in causal windows often one per block."""
    if among:
        levels = np.full(frames, rng.choice(among))
        levels[:history] = 0.0
        return levels
    levels = np.full(frames, shifted(rng.uniform(size=1))[0])
    if block_size > 1 and rng.uniform() < 0.6:
        num_blocks = -(-frames // block_size)
        start, stride = rng.uniform(-0.2, 1.0), rng.uniform(0.05, 0.6)
        blocks = shifted(np.clip(start + stride * np.arange(num_blocks), 0.0, 1.0))
        levels = np.repeat(blocks, block_size)[:frames]
    if history:
        levels[:history] = 0.0 if rng.uniform() < 0.5 else rng.uniform(0.0, 0.06)
    return levels


def draw_batch(clips: list[LatentClip], config: ForcingConfig, step: int, progress: float, share: Share) -> Batch:
    """Draw this process's share of a step's windows, all of one length; `progress` is 0 at the first step, 1 at the
    last.
    """
    shared = np.random.default_rng([config.seed, step])
    choices = next(lengths for until, lengths in config.lengths if progress < until)
    frames, kept = choices[int(shared.integers(len(choices)))]
    places = np.concatenate([[0], 1 + np.sort(shared.choice(frames - 1, kept - 1, replace=False))])
    block_size = BLOCK if frames % BLOCK == 0 and shared.uniform() < config.causal_share else 1
    count = -(-config.latent_frames_per_step // kept // share.count) * share.count
    windows, levels, weights, captions, fps = [], [], [], [], []
    for item in share.items(count):
        rng = np.random.default_rng([config.seed, step, item])
        history = 0
        if rng.uniform() < config.history_share:
            history = HISTORY if block_size > 1 or rng.uniform() < 0.7 else int(rng.integers(1, 9))
            if history >= frames:
                history = 0 if block_size > 1 else frames - 2
        window, caption = _draw_window(rng, clips, frames, history)
        row = draw_levels(rng, frames, block_size, history, config.levels)
        windows.append(window[:, places])
        levels.append(row[places])
        weights.append(((row > 0) & (np.arange(frames) >= history))[places])
        captions.append("" if rng.uniform() < config.prompt_dropout else caption)
        fps.append(0 if rng.uniform() < 0.1 else 1)
    return Batch(
        places=torch.from_numpy(places),
        windows=torch.stack(windows).float(),
        levels=torch.from_numpy(np.stack(levels)).float(),
        weights=torch.from_numpy(np.stack(weights)).float(),
        captions=captions,
        block_size=block_size,
        fps_index=torch.tensor(fps),
    )


def _draw_window(rng: np.random.Generator, clips: list[LatentClip], frames: int, history: int) -> tuple[Tensor, str]:
    """Draw a window 16 F 8 8 and its caption: a film's start, or with a history what follows later.

    Of those, most start where the film's second window does, and one in four has its prompt change after the history.
    """
    wants_change = history > 0 and rng.uniform() < 0.25
    for attempt in range(10_000):
        wants_change = wants_change and attempt < 1_000  # a cache may hold no clip that changes
        clip = clips[int(rng.integers(len(clips)))]
        last = clip.latents.shape[1] - frames
        if wants_change and clip.change_at is not None:
            start = clip.change_at - history
            wants_change = 0 <= start <= last  # a history too long for this clip: show no change then
            if wants_change:
                return clip.latents[:, start : start + frames], clip.caption_after
        elif not wants_change and clip.change_at is None and last >= 0:
            start = 0
            if history:
                start = STRIDE if last >= STRIDE and rng.uniform() < 0.5 else int(rng.integers(0, last + 1))
            return clip.latents[:, start : start + frames], clip.caption
    raise ValueError(f"no cached clip has {frames} latent frames")
