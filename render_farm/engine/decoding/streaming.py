"""Latents to frames in a stream: one latent frame at a time, memory independent of the film's length.

Bit-equal to one `AutoencoderKLWan.decode` of the whole film (its `_decode` loops in the same way, over a cache of the
last frames' features). The cache is this decoder's own, so several films can be decoded in turn with one VAE; it is
large (4.9 GB at 544x960), and decoding can start only where a film or a take does.

Shapes: B batch (1), C channels, T latent frames, h w latent height and width; frames are (H, W, 3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from render_farm.engine.decoding.tiles import FrameDecoder, frame_decoder
from render_farm.engine.decoding.turns import DecodingTurns
from render_farm.engine.device import device_errors
from render_farm.errors import NotFiniteError


class StreamingDecoder:
    """Decodes one film from its first latent frame on."""

    def __init__(
        self,
        vae: AutoencoderKLWan,
        *,
        num_skipped_frames: int = 0,
        starts: Collection[int] = (),
        tiling: bool = False,
        frame_decoder: FrameDecoder | None = None,
        turns: DecodingTurns | None = None,
    ) -> None:
        """`num_skipped_frames` pixel frames at the film's start are decoded but not given out. At the latent frames
        `starts` decoding starts again, as for the first frame of a film. `tiling` decodes in
        tiles, which takes less memory and gives other pixels (see `tiles`). `frame_decoder` is used instead: one
        that has decoded nothing yet. `turns` are shared with the other decoders on the device."""
        self._vae = vae
        self._num_skipped = num_skipped_frames
        self._starts = frozenset(starts)
        self._num_decoded = 0
        self._turns = turns or DecodingTurns(vae.device)
        self._tiling = tiling
        self._frame_decoder = frame_decoder
        self._waiting: deque[Tensor] = deque()

    def push(self, latents: Tensor) -> Iterator[np.ndarray]:
        """Queue `latents` (1 C T h w), normalised as the denoiser leaves them; iterate over the frames that are due.

        Frames are (H, W, 3) uint8, decoded as they are taken: 1 for the first latent frame of the film and after each
        cut, 4 for the others. Frames not taken come first from the next `push`.
        """
        self._waiting.extend(latents.split(1, dim=2))
        return self._frames()

    def _frames(self) -> Iterator[np.ndarray]:
        while self._waiting:
            with device_errors("decoding a latent frame"), self._turns.turn():
                frames = self._decode(self._waiting.popleft())
            skipped = min(self._num_skipped, len(frames))
            self._num_skipped -= skipped
            yield from frames[skipped:]

    @torch.no_grad()
    def _decode(self, latent: Tensor) -> np.ndarray:
        """Decode one latent frame (1 C 1 h w) to (frames, H, W, 3) uint8."""
        vae = self._vae
        if self._frame_decoder is None:
            height, width = latent.shape[3:]
            self._frame_decoder = frame_decoder(vae, height=height, width=width, tiling=self._tiling)
        if self._num_decoded in self._starts:
            self._frame_decoder.restart()
        self._num_decoded += 1
        self._turns.take(self._frame_decoder)
        # As the pipeline's decoding: latents / (1 / std) + mean.
        mean, std = (
            torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1).to(vae.device, vae.dtype)
            for name in ("latents_mean", "latents_std")
        )
        video = self._frame_decoder.decode(latent.to(vae.device, vae.dtype) / (1.0 / std) + mean)
        if not video.isfinite().all():  # it would become a black frame
            raise NotFiniteError("a decoded latent frame")
        levels = (video.clamp(-1.0, 1.0) * 0.5 + 0.5).clamp(0, 1) * 255
        return levels[0].to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
