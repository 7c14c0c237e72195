"""The services of a render group to the engine on one of its ranks: a protocol, and the group of one.

The tokens of every latent frame are shared out over the ranks, the same slice of each frame on the same rank. All that
happens to a token by itself (projections, modulation, cross-attention) is then done once in the group, whichever frames
a pass computes; self-attention meets the other ranks' tokens through `attention`. `render_farm.parallel` implements it.

Shapes: B batch, F latent frames, S tokens of a frame, N of them on this rank, C channels.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from render_farm.engine.transformer.attention import SelfAttention


class RenderGroup(Protocol):
    """This process's part of a segment that several processes render together. Every rank makes the same calls."""

    @property
    def head_shares(self) -> int:
        """Over how many ranks the keys and values that are kept are shared out, by heads."""
        ...

    def own_branches(self, num_branches: int) -> slice:
        """Which of the guidance branches are computed on this rank."""
        ...

    def attention(self, alone: SelfAttention, tokens_per_frame: int) -> SelfAttention:
        """Self-attention for tokens that are shared out: `alone` is that of one rank, `tokens_per_frame` is S."""
        ...

    def shard(self, tokens: Tensor, dim: int) -> Tensor:
        """This rank's N of the S tokens along `dim`. N is the same on every rank; the last ranks may hold padding."""
        ...

    def gather(self, own: tuple[Tensor, ...], tokens_per_frame: int) -> tuple[Tensor, ...]:
        """From (B F N C) for each own branch on every rank to (B F S C) for each branch, on all ranks."""
        ...

    def num_own(self, tokens_per_frame: int) -> int:
        """How many of the S tokens of a frame are on this rank, padding left out."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over the ranks that share the tokens of this rank's branches."""
        ...

    def all_agree(self, here: bool) -> bool:
        """Whether `here` is true on every rank; the same answer on all of them."""
        ...


class SingleRank:
    """A group of one: nothing is shared, nothing is sent."""

    head_shares = 1

    def own_branches(self, num_branches: int) -> slice:
        return slice(0, num_branches)

    def attention(self, alone: SelfAttention, tokens_per_frame: int) -> SelfAttention:
        return alone

    def shard(self, tokens: Tensor, dim: int) -> Tensor:
        return tokens

    def gather(self, own: tuple[Tensor, ...], tokens_per_frame: int) -> tuple[Tensor, ...]:
        return own

    def num_own(self, tokens_per_frame: int) -> int:
        return tokens_per_frame

    def total(self, values: Tensor) -> Tensor:
        return values

    def all_agree(self, here: bool) -> bool:
        return here
