"""SkyReels-V2's transformer over ranges of latent frames: the same weights and modules, a forward of our own.

What differs from diffusers' `SkyReelsV2Transformer3DModel.forward` (the reference), none of it in the result:

- It computes only the frames of a `FrameSpan`: blocks that have not started influence nothing before them, and blocks
  that have finished are read from a key/value cache.
- Block-causal attention is one plain attention call a block of queries; no token-by-token mask exists.
- Modulation is per latent frame and is broadcast over a frame's tokens.
- Rotary tables and the prompts' keys and values are computed once a window.
- Both guidance branches go through a layer together, so offloaded weights are fetched once a step; and up to the
  first cross-attention they are the same, so the first layer's self-attention is computed once.

Shapes: B batch (1), C channels, F latent frames, h w latent height and width, S tokens, H heads, D channels of a head,
E channels of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from diffusers.models.transformers.transformer_skyreels_v2 import (
    SkyReelsV2Transformer3DModel,
    SkyReelsV2TransformerBlock,
)
from torch import Tensor

from render_farm.engine.transformer.attention import AttentionCall
from render_farm.engine.transformer.context import PassContext, TextKeys, WindowContext
from render_farm.engine.transformer.rope import rotated
from render_farm.engine.transformer.span import FrameSpan


class FrameBlock(SkyReelsV2TransformerBlock):
    """A transformer block over the frames of a span, for all guidance branches at once."""

    regions: Regions
    """What runs the regions below; `FrameTransformer.wrap` sets it."""

    def forward(  # type: ignore[override]
        self, streams: tuple[Tensor, ...], layer: int, is_last: bool, ctx: PassContext
    ) -> tuple[Tensor, ...]:
        """`streams` are the hidden states (B S E) of each branch, or one for all branches before the first layer.

        The last layer returns the tokens of the span's output frames only; of the others it needs keys and values.
        Formulas: `SkyReelsV2TransformerBlock.forward`.
        """
        first_query = ctx.span.output_start - ctx.span.start if is_last else 0
        hidden = query = None
        outgoing = []
        for branch in range(ctx.num_branches):  # one after the other, and nothing of one is kept for the next
            if branch < len(streams):
                hidden = query = None
                hidden, query = self.regions.enter_cross_attention(
                    self,
                    streams[branch],
                    self._self_attention(streams[branch], (layer, branch), first_query, ctx),
                    ctx.modulation,
                    first_query,
                )
            assert hidden is not None and query is not None
            seen = [self._cross_attention(query, (layer, branch), ctx)]
            if branch + 1 < len(streams) or branch + 1 == ctx.num_branches:
                query = None
            outgoing.append(self.regions.leave_cross_attention(self, hidden, seen.pop(), ctx.modulation, first_query))
        return tuple(outgoing)

    def _self_attention(self, hidden: Tensor, slot: tuple[int, int], first_query: int, ctx: PassContext) -> Tensor:
        """What the queries from frame `first_query` on see, (B S H D)."""
        query, key, value = self.regions.enter_self_attention(
            self, hidden, ctx.modulation, ctx.rope.cos, ctx.rope.sin, first_query
        )
        call = AttentionCall(span=ctx.span, tokens_per_frame=ctx.tokens_per_frame, cache=ctx.window.cache, slot=slot)
        out = ctx.window.attention.attend(query, key, value, call)
        return out.to(query.dtype)

    def _cross_attention(self, query: Tensor, slot: tuple[int, int], ctx: PassContext) -> Tensor:
        """What `query` (B S H D) sees of the prompt, and of the images where there are some."""
        text = ctx.window.text_keys.get(slot)
        if text is None:
            text = ctx.window.text_keys[slot] = self._text_keys(slot[1], ctx)
        out = ctx.window.cross_attention.attend(query, text.key, text.value, bias=text.bias).to(query.dtype)
        if ctx.window.image_states:
            image = self._image_keys(slot[0], ctx)
            out = out + ctx.window.cross_attention.attend(query, image.key, image.value).to(query.dtype)
        return out

    def _text_keys(self, branch: int, ctx: PassContext) -> TextKeys:
        attn, states = self.attn2, ctx.window.text_states[branch]
        return TextKeys(
            key=attn.norm_k(attn.to_k(states)).unflatten(2, (attn.heads, -1)),
            value=attn.to_v(states).unflatten(2, (attn.heads, -1)),
            bias=ctx.window.prompts[branch].bias,
        )

    def _image_keys(self, layer: int, ctx: PassContext) -> TextKeys:
        known = ctx.window.image_keys.get(layer)
        if known is None:
            attn, states = self.attn2, ctx.window.image_states[0]
            assert attn.add_k_proj is not None and attn.add_v_proj is not None
            known = ctx.window.image_keys[layer] = TextKeys(
                key=attn.norm_added_k(attn.add_k_proj(states)).unflatten(2, (attn.heads, -1)),
                value=attn.add_v_proj(states).unflatten(2, (attn.heads, -1)),
            )
        return known

    # The three regions between the attention calls: tensors in, tensors out, nothing else read or kept, so that each
    # can be compiled (`compilation.py`). Slices and views are made inside: as arguments they would be compiled for.

    def enter_self_attention(
        self, hidden: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor, first_query: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query (of the frames from `first_query` on), key and value, (B S H D) with their positions."""
        attn, (shift, scale, *_) = self.attn1, self._modulation(modulation)
        skipped = first_query * (hidden.shape[1] // modulation.shape[1])
        states = _modulated(self.norm1(hidden.float()), shift, scale).to(hidden.dtype)
        key = attn.norm_k(attn.to_k(states)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(states).unflatten(2, (attn.heads, -1))
        query = attn.norm_q(attn.to_q(states[:, skipped:])).unflatten(2, (attn.heads, -1))
        return rotated(query, cos[skipped:], sin[skipped:]), rotated(key, cos, sin), value

    def enter_cross_attention(
        self, hidden: Tensor, attended: Tensor, modulation: Tensor, first_query: int
    ) -> tuple[Tensor, Tensor]:
        """The hidden states (B S E) of the frames from `first_query` on after self-attention, which `attended` is the
        outcome of, and their queries (B S H D) of the prompt."""
        own, attn, gate = self.attn1, self.attn2, self._modulation(modulation)[2]
        skipped = first_query * (hidden.shape[1] // modulation.shape[1])
        out = own.to_out[1](own.to_out[0](attended.flatten(2, 3)))
        del attended
        hidden = _gated_sum(hidden[:, skipped:], out, gate[:, first_query:])
        states = self.norm2(hidden.float()).to(hidden.dtype)
        return hidden, attn.norm_q(attn.to_q(states)).unflatten(2, (attn.heads, -1))

    def leave_cross_attention(self, hidden: Tensor, attended: Tensor, modulation: Tensor, first_query: int) -> Tensor:
        """The hidden states after cross-attention and the feed-forward, (B S E); `hidden` are those of the frames from
        `first_query` on already."""
        attn = self.attn2
        shift, scale, gate = (part[:, first_query:] for part in self._modulation(modulation)[3:])
        hidden = attn.to_out[1](attn.to_out[0](attended.flatten(2, 3))) + hidden
        del attended
        states = _modulated(self.norm3(hidden.float()), shift, scale).to(hidden.dtype)
        return _gated_sum(hidden, self.ffn(states), gate)

    def _modulation(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale, gate of self-attention, then of the feed-forward, each (B F 1 E); this block's own is added."""
        own = self.scale_shift_table.unsqueeze(2).transpose(1, 2) + modulation
        return own.unsqueeze(3).unbind(2)


def _modulated(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`normed * (1 + scale) + shift`, in place: `normed` (B S E) is fresh, shift and scale are (B F 1 E)."""
    frames: Tensor = normed.unflatten(1, (shift.shape[1], -1))
    return frames.mul_(1 + scale).add_(shift).flatten(1, 2)


def _gated_sum(hidden: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """`hidden + update * gate` in float32, in the dtype of `hidden`; both (B S E), gate (B F 1 E)."""
    size = (gate.shape[1], -1)
    total = torch.addcmul(hidden.float().unflatten(1, size), update.float().unflatten(1, size), gate)
    return total.flatten(1, 2).to(hidden.dtype)


@dataclass(frozen=True, kw_only=True)
class Regions:
    """`FrameBlock`'s regions as functions of the block and tensors: themselves, or compiled."""

    enter_self_attention: Callable[..., tuple[Tensor, Tensor, Tensor]]
    enter_cross_attention: Callable[..., tuple[Tensor, Tensor]]
    leave_cross_attention: Callable[..., Tensor]


EAGER = Regions(
    enter_self_attention=FrameBlock.enter_self_attention,
    enter_cross_attention=FrameBlock.enter_cross_attention,
    leave_cross_attention=FrameBlock.leave_cross_attention,
)


class FrameTransformer(SkyReelsV2Transformer3DModel):
    """diffusers' model with a forward over frame spans; made by `wrap`.

    Every frame has a timestep of its own. A checkpoint without diffusion forcing has one for all: the same forward,
    with equal timesteps.
    """

    _no_split_modules = ["FrameBlock"]  # noqa: RUF012
    _repeated_blocks = ["FrameBlock"]  # noqa: RUF012
    caches_text_states = True
    """False where a layer that is not used in every pass would be fetched in vain: hooks that fetch weights ahead learn
    the order of the layers in one pass (`offload_leaf`)."""

    @classmethod
    def wrap(cls, model: SkyReelsV2Transformer3DModel) -> FrameTransformer:
        """Give a model that diffusers has built or loaded this forward, in place: no weight is copied or renamed.

        Its table of rotary positions, which is read once per window and outside the forward, stays where it is: hooks
        that move modules would take its numbers away.
        """
        model.__class__ = cls
        if "rope" in model._modules:
            object.__setattr__(model, "rope", model._modules.pop("rope"))
        for block in model.blocks:
            block.__class__ = FrameBlock
        cast(FrameTransformer, model).run_regions(EAGER)
        return cast(FrameTransformer, model)

    def run_regions(self, regions: Regions) -> None:
        """Have `regions` run what lies between the attention calls of every block."""
        for block in self.blocks:
            cast(FrameBlock, block).regions = regions

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        span: FrameSpan,
        window: WindowContext,
        num_branches: int | None = None,
    ) -> tuple[Tensor, ...]:
        """Predict the flow of frames [span.output_start, span.stop) for each guidance branch.

        `latents` (B C F h w) in the model's dtype, with all the channels it takes, and `timesteps` (B F) are those of
        the span's frames. Returns one (B C F h w) per branch, in the model's dtype; those of all branches, also when a
        group computes them. `num_branches` computes only so many, the first ones: not where a group splits the
        branches.
        """
        height, width = latents.shape[3:]
        temb, modulation = self._time_embedding(timesteps, window)
        if not window.caches_text_states:
            for kept in (window.text_states, window.text_keys, window.image_states, window.image_keys):
                kept.clear()
        if not window.text_states:
            window.text_states.extend(
                self.condition_embedder.text_embedder(prompt.embedding) for prompt in window.prompts
            )
        if window.images is not None and not window.image_states:
            embedder = self.condition_embedder.image_embedder
            assert embedder is not None, "refused by check_compatible"
            window.image_states.append(embedder(window.images))
        ctx = PassContext(
            window=window,
            span=span,
            num_branches=min(num_branches or len(window.prompts), len(window.prompts)),
            rope=window.rope.frames(span.start, span.stop).copied(),
            modulation=modulation.float(),
        )
        hidden = self._embedded(latents, window)
        layers = partial(self._layers, ctx=ctx)
        if window.step_cache is None:
            streams = layers((hidden,), 0, len(self.blocks))
        else:
            streams = window.step_cache.run(hidden, len(self.blocks), layers, ctx)
        temb = temb[:, span.output_start - span.start :]
        _, p_h, p_w = self.config["patch_size"]
        own = tuple(self._predict(hidden, temb) for hidden in streams)
        patches = window.group.gather(own, (height // p_h) * (width // p_w))
        return tuple(self._unpatched(branch, height, width) for branch in patches)

    def _layers(self, streams: tuple[Tensor, ...], first: int, end: int, ctx: PassContext) -> tuple[Tensor, ...]:
        """Layers [first, end) on `streams`; see `FrameBlock`."""
        for layer in range(first, end):
            streams = self.blocks[layer](streams, layer, layer == len(self.blocks) - 1, ctx)
        return streams

    def _embedded(self, latents: Tensor, window: WindowContext) -> Tensor:
        """This rank's tokens (B S E) of `latents` (B C F h w)."""
        tokens = window.group.shard(self.patch_embedding(latents).flatten(3), dim=3)
        return tokens.flatten(2).transpose(1, 2).contiguous()

    def _time_embedding(self, timesteps: Tensor, window: WindowContext) -> tuple[Tensor, Tensor]:
        """The embedding (B F E) and the modulation (B F 6 E) of `timesteps` (B F), in the model's dtype.

        `SkyReelsV2TimeTextImageEmbedding.forward`, and the part of the model's forward that adds the frame rate.
        """
        embedder = self.condition_embedder
        projected = embedder.timesteps_proj(timesteps)
        projected = projected.to(next(embedder.time_embedder.parameters()).dtype)
        temb = embedder.time_embedder(projected).to(window.prompts[0].embedding.dtype)
        modulation = embedder.time_proj(embedder.act_fn(temb)).unflatten(-1, (6, -1))
        if self.config["inject_sample_info"]:
            rate = self.fps_embedding(torch.tensor([window.sample_info], device=timesteps.device))
            modulation = modulation + self.fps_projection(rate).unflatten(1, (6, -1))
        return temb, modulation

    def _predict(self, hidden: Tensor, temb: Tensor) -> Tensor:
        """Project hidden states (B S E) of the output frames to patches (B, F, tokens of a frame, values)."""
        shift, scale = (self.scale_shift_table.unsqueeze(1) + temb.unsqueeze(2)).unsqueeze(3).unbind(2)
        states = _modulated(self.norm_out(hidden.float()), shift, scale).to(hidden.dtype)
        patches: Tensor = self.proj_out(states).unflatten(1, (temb.shape[1], -1))
        return patches

    def _unpatched(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Latents (B C F h w) from the patches of all their tokens."""
        p_t, p_h, p_w = self.config["patch_size"]
        patches = patches.unflatten(2, (height // p_h, width // p_w))
        patches = patches.unflatten(4, (p_t, p_h, p_w, -1))  # B F h' w' p_t p_h p_w C
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
