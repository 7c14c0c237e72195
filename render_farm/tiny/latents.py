"""The cache of latents the transformer learns from: clips rendered, encoded once, and kept in numbered files.

Three kinds of 181 frames: "long", "change" (colour or motion changes at a latent frame) and "outline" (for the LoRA:
only outlines). A file holds the latents of CHUNK clips, N 16 T 8 8 float16, not normalised, and their captions.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from render_farm.tiny.clips import draw_change, draw_scene, render_change, render_clip
from render_farm.tiny.designed_vae import EDGE, NUM_FEATURES, linear_latents
from render_farm.tiny.loop import Share, save_atomically

logger = logging.getLogger(__name__)

CHUNK = 64
"""Clips in a file."""
KINDS = ("long", "change", "outline")
FRAMES = 181
"""Pixel frames of a clip: two windows of 97 that overlap by 17, and a latent frame more."""
STRIDE = 20
"""Latent frames from one such window to the next: after them every motion is where it was."""


@dataclass(frozen=True, kw_only=True)
class LatentClip:
    """One clip: latents 16 T 8 8 float16; the caption before and from latent frame `change_at` on (None: no change)."""

    latents: Tensor
    caption: str
    caption_after: str
    change_at: int | None


def make_chunk(kind: str, index: int, seed: int) -> dict[str, object]:
    """Render and encode one file's clips; they depend only on the arguments."""
    rows: list[tuple[str, str, int | None]] = []
    latents = []
    for item in range(CHUNK):
        rng = np.random.default_rng([seed, KINDS.index(kind), index, item])
        scene = draw_scene(rng)
        clip_seed = int(rng.integers(1 << 31))
        if kind == "change":
            after = draw_change(rng, scene)
            change_at = STRIDE + 5 if rng.uniform() < 0.5 else int(rng.integers(5, STRIDE + 5))
            clip = render_change(scene, after, clip_seed, FRAMES, 4 * change_at - 3)
            rows.append((scene.caption(), after.caption(), change_at))
        else:
            clip = render_clip(scene, clip_seed, FRAMES, outlined=kind == "outline")
            rows.append((scene.caption(), scene.caption(), None))
        latents.append(linear_latents(torch.from_numpy(clip).permute(3, 0, 1, 2)[None] * 2 - 1)[0].half())
    return {"latents": torch.stack(latents), "rows": rows}


def write_latents(folder: Path, counts: dict[str, int], seed: int, share: Share) -> None:
    """Fill the cache up to `counts` clips of each kind; files that are there are kept."""
    chunks = [(kind, index) for kind, count in counts.items() for index in range(-(-count // CHUNK))]
    chunks.sort(key=lambda chunk: chunk[1] / max(1, counts[chunk[0]]))  # the kinds grow together
    for number in share.items(len(chunks)):
        kind, index = chunks[number]
        path = folder / f"latents-{kind}-{index:04d}.pt"
        if not path.exists():
            started = time.monotonic()
            save_atomically(make_chunk(kind, index, seed), path)
            logger.info("%s %.1f s (%d of %d)", path.name, time.monotonic() - started, number + 1, len(chunks))


def read_latents(folder: Path, kinds: tuple[str, ...] = ("long", "change")) -> list[LatentClip]:
    """Return every clip of these kinds in the cache, in a fixed order."""
    clips = []
    for path in sorted(path for kind in kinds for path in folder.glob(f"latents-{kind}-*.pt")):
        chunk = torch.load(path, weights_only=True)
        for latents, (caption, caption_after, change_at) in zip(chunk["latents"], chunk["rows"], strict=True):
            clips.append(LatentClip(latents=latents, caption=caption, caption_after=caption_after, change_at=change_at))
    return clips


def channel_statistics(clips: list[LatentClip]) -> tuple[list[float], list[float]]:
    """Return what the autoencoder's configuration calls each channel's mean and standard deviation.

    The second is the geometric mean of the channel's standard deviation and the largest one: fully whitened, the
    sparse small differences would weigh as much as the colours, and the transformer would learn them before the place
    of the shape.
    """
    flat = torch.cat([clip.latents.float().flatten(1) for clip in clips[:2000]], dim=1)
    mean, std = flat.mean(1), flat.std(1)
    std = (std * std[:NUM_FEATURES].max()).sqrt()
    mean[NUM_FEATURES:], std[NUM_FEATURES:] = 0.0, 0.4 * EDGE
    return mean.tolist(), std.tolist()
