"""One latent frame to pixels: in one piece, or in overlapping tiles that are blended.

Each piece of the picture keeps the features of its own last frames, so a film is decoded frame by frame either way.
`Tiles` gives what `AutoencoderKLWan.tiled_decode` gives, which decodes the whole length of a tile before the next one.

Shapes: B batch (1), C channels, h w latent height and width; frames are (B 3 F H W), F 1 for a film's first latent
frame and then 4.
"""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, unpatchify
from torch import Tensor

Features = list[Tensor | str | None]
"""The features that the causal convolutions keep of earlier frames, in the order in which they run."""


class FrameDecoder(Protocol):
    """Decodes the latent frames of one film in their order."""

    def decode(self, latent: Tensor) -> Tensor:
        """(B C 1 h w), denormalised, to frames (B 3 F H W) of about -1..1, on the VAE's device."""
        ...

    def park(self) -> None:
        """Leave the features in the host's memory until the next frame."""
        ...

    def restart(self) -> None:
        """Forget the features: the next latent frame is the first of a film."""
        ...


class ParkedFeatures:
    """The features of a decoder. On a GPU they can be left in pinned host memory, which is kept for the next time."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._device = vae.device
        self._features: Features = [None] * sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())
        self._parked: dict[int, Tensor] = {}

    def on_device(self) -> Features:
        """The list itself, all of it on the VAE's device."""
        for index, feature in enumerate(self._features):
            if isinstance(feature, Tensor):
                self._features[index] = feature.to(self._device, non_blocking=True)
        return self._features

    def clear(self) -> None:
        """As before the first frame."""
        self._features = [None] * len(self._features)

    def park(self) -> None:
        """Copy to the host's memory what is on a GPU. The copies are in the order of the current stream."""
        for index, feature in enumerate(self._features):
            if isinstance(feature, Tensor) and feature.device.type == "cuda":
                parked = self._parked.get(index)
                if parked is None or parked.shape != feature.shape:
                    parked = torch.empty(feature.shape, dtype=feature.dtype, pin_memory=True)
                self._parked[index] = self._features[index] = parked.copy_(feature, non_blocking=True)


class Piece:
    """A picture, or a part of one, decoded at once."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._features = ParkedFeatures(vae)
        self._started = False

    def decode(self, latent: Tensor) -> Tensor:
        return _unpatched(self._vae, self.decode_patched(latent))

    def decode_patched(self, latent: Tensor) -> Tensor:
        """As `decode`, but of a VAE that puts patches of pixels into channels, those patches."""
        vae = self._vae
        frames: Tensor = vae.decoder(
            vae.post_quant_conv(latent),
            feat_cache=self._features.on_device(),
            feat_idx=[0],
            first_chunk=not self._started,
        )
        self._started = True
        return frames

    def park(self) -> None:
        self._features.park()

    def restart(self) -> None:
        self._features.clear()
        self._started = False


class Tiles:
    """A picture in tiles of `vae.tile_sample_min_*` pixels, `vae.tile_sample_stride_*` apart.

    On a GPU only the features of the tile that is being decoded lie there.
    """

    def __init__(self, vae: AutoencoderKLWan, *, height: int, width: int) -> None:
        """`height` and `width` are those of a latent frame."""
        factor = _spatial_factor(vae)
        self._vae = vae
        self._tops = range(0, height, vae.tile_sample_stride_height // factor)
        self._lefts = range(0, width, vae.tile_sample_stride_width // factor)
        self._tile_height = vae.tile_sample_min_height // factor
        self._tile_width = vae.tile_sample_min_width // factor
        self._pieces = {(top, left): Piece(vae) for top in self._tops for left in self._lefts}

    def decode(self, latent: Tensor) -> Tensor:
        rows = [[self._tile(latent, top, left) for left in self._lefts] for top in self._tops]
        return _unpatched(self._vae, self._joined(rows, *latent.shape[3:]))

    def _tile(self, latent: Tensor, top: int, left: int) -> Tensor:
        piece = self._pieces[top, left]
        tile = piece.decode_patched(latent[:, :, :, top : top + self._tile_height, left : left + self._tile_width])
        piece.park()
        return tile

    def park(self) -> None:
        """They are parked already."""

    def restart(self) -> None:
        for piece in self._pieces.values():
            piece.restart()

    def _joined(self, rows: list[list[Tensor]], height: int, width: int) -> Tensor:
        """Blend each tile into the one above and the one before it, in place, and cut what the next ones cover."""
        vae = self._vae
        patch = vae.config["patch_size"] or 1
        strides = vae.tile_sample_stride_height // patch, vae.tile_sample_stride_width // patch
        overlaps = vae.tile_sample_min_height // patch - strides[0], vae.tile_sample_min_width // patch - strides[1]
        joined = []
        for i, row in enumerate(rows):
            for j, tile in enumerate(row):
                if i:
                    vae.blend_v(rows[i - 1][j], tile, overlaps[0])
                if j:
                    vae.blend_h(row[j - 1], tile, overlaps[1])
            joined.append(torch.cat([tile[..., : strides[0], : strides[1]] for tile in row], dim=-1))
        scale = _spatial_factor(vae) // patch
        return torch.cat(joined, dim=3)[..., : height * scale, : width * scale]


def frame_decoder(vae: AutoencoderKLWan, *, height: int, width: int, tiling: bool) -> FrameDecoder:
    """The decoder of a film whose latent frames are `height` x `width`; tiles only where there is more than one, as
    `AutoencoderKLWan.decode` decides."""
    factor = _spatial_factor(vae)
    if tiling and (width > vae.tile_sample_min_width // factor or height > vae.tile_sample_min_height // factor):
        return Tiles(vae, height=height, width=width)
    return Piece(vae)


def _spatial_factor(vae: AutoencoderKLWan) -> int:
    factor = vae.spatial_compression_ratio
    assert factor is not None
    return factor


def _unpatched(vae: AutoencoderKLWan, frames: Tensor) -> Tensor:
    patch = vae.config["patch_size"]
    return frames if patch is None else unpatchify(frames, patch_size=patch)
