"""A film decoded by all ranks of a group: each decodes some rows of the picture, through DistVAE.

Every convolution gets the row beside its own from the neighbours, and attention (once, at the latents' size) the whole
picture; so a rank computes what one rank alone computes for these rows. The features of the last frames, which a stream
keeps, are kept for the own rows only: memory is divided too.

Shapes: B batch (1), C channels, F frames, h w latent height and width, H W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from torch import Tensor

from render_farm.engine.decoding.tiles import ParkedFeatures
from render_farm.errors import UsageError
from render_farm.extras import install_advice
from render_farm.parallel.group import ParallelGroup

_ROWS = -2
"""The axis that is cut: the height."""


class RowDecoder:
    """One rank's part of a film's decoder (`engine.decoding.tiles.FrameDecoder`); every rank makes the same calls.

    It outlives its group: in another one of the same size, where this process has the same rank, it continues with the
    next latent frame. It holds no weights of its own.
    """

    def __init__(self, vae: AutoencoderKLWan, *, rank: int, num_ranks: int) -> None:
        self.rank = rank
        self.num_ranks = num_ranks
        self.num_decoded = 0
        """Latent frames since the film's start or a cut."""
        self._vae = vae
        self._features = ParkedFeatures(vae)
        self._decoder: Any = None
        self._is_joined = False

    @contextmanager
    def joined(self, group: ParallelGroup) -> Iterator[None]:
        """Decode with the ranks of `group` inside this context. Nothing of the group is kept after it."""
        assert (group.rank, group.num_ranks) == (self.rank, self.num_ranks)
        from distvae.utils import ParallelContext, parallel_context

        meeting = parallel_context(group.ranks, _ROWS, ndim=5)
        if self._decoder is None:
            self._decoder = _sharded(self._vae, group.ranks)
        try:
            _meet(self._decoder, meeting)
            self._is_joined = True
            yield
        finally:
            self._is_joined = False
            apart = ParallelContext(group=None, rank=self.rank, world_size=self.num_ranks, patch_dim=_ROWS)
            _meet(self._decoder, apart)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """(B C 1 h w), denormalised, to frames (B 3 F H W), F 1 for a film's first latent frame and then 4; the same on
        every rank. Raises `UsageError` for fewer rows than ranks."""
        assert self._is_joined, "decoding with others takes a group"
        if latent.shape[_ROWS] < self.num_ranks:
            raise UsageError(
                f"{self.num_ranks} ranks cannot share the {latent.shape[_ROWS]} rows of a latent frame",
                advice=f"decode with {latent.shape[_ROWS]} or fewer",
            )
        vae = self._vae
        frames: Tensor = self._decoder(
            vae.post_quant_conv(latent),
            feat_cache=self._features.on_device(),
            feat_idx=[0],
            first_chunk=not self.num_decoded,
        )
        self.num_decoded += 1
        patch = vae.config["patch_size"]
        return frames if patch is None else unpatchify(frames, patch_size=patch)

    def park(self) -> None:
        """See `engine.decoding.tiles.FrameDecoder`."""
        self._features.park()

    def restart(self) -> None:
        """See `engine.decoding.tiles.FrameDecoder`."""
        self._features.clear()
        self.num_decoded = 0


def _sharded(vae: AutoencoderKLWan, ranks: Any) -> Any:
    """DistVAE's form of the decoder. It replaces modules in place, so it is given a copy, of all but the weights."""
    try:
        from distvae.modules.adapters.vae.decoder_adapters import WanDecoderAdapter
    except ModuleNotFoundError as error:
        raise UsageError(
            f"decoding with a render group needs the package {error.name}, which is not installed",
            advice=f'{install_advice("distvae")}, or the setting decode = "off" of [group]',
        ) from error
    shared = {id(tensor): tensor for tensor in (*vae.decoder.parameters(), *vae.decoder.buffers())}
    return WanDecoderAdapter(copy.deepcopy(vae.decoder, shared), vae_group=ranks, patch_dim=_ROWS)


def _meet(decoder: Any, context: Any) -> None:
    """Have every part of `decoder` exchange with these ranks."""
    for module in decoder.modules():
        if hasattr(module, "parallel_context"):
            module.parallel_context = context
