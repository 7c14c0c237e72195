"""The transformer as training needs it: batches, short texts, one noise level per latent frame.

The same numbers as SkyReelsV2Transformer3DModel gives (a test compares them), from the same modules. What differs:
diffusers' sample information (fps) fails for more than one clip a batch; it writes the modulation of every token, here
it is broadcast over a frame's tokens; and it attends to 512 text positions, of which all but a few are the same
padding vector: here they are one key whose weight is the number it stands for.
Shapes: latents B C F H W; levels B F (timesteps, 0 to 1000); tokens B F S D (S tokens a frame); text B K E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEXT_LENGTH = 512
"""Text positions of the sampler, padding included."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Encoded captions: `states` B K E, the last of the K being padding (zeros), and `bias` B K, added to attention
    logits.
    """

    states: Tensor
    bias: Tensor


def make_text(states: Tensor, mask: Tensor) -> Text:
    """Make a Text from encoder outputs B K E and their mask B K (1 for a real token)."""
    states = F.pad(states * mask[..., None], (0, 0, 0, 1))
    num_padding = TEXT_LENGTH - mask.sum(1, keepdim=True)
    bias = torch.where(mask.bool(), 0.0, -torch.inf)
    return Text(states=states, bias=torch.cat([bias, num_padding.log()], dim=1))


def predict_flow(
    model: Any,
    latents: Tensor,
    levels: Tensor,
    text: Text,
    fps_index: Tensor,
    block_size: int,
    places: Tensor | None = None,
) -> Tensor:
    """Return the predicted flow (noise - clean), B C F H W.

    Args:
        block_size: More than 1: causal over blocks of that many latent frames.
        places: Which frames of a longer window these are (F,). The sampler has all of them, the default.
    """
    batch, _, frames, height, width = latents.shape
    places = torch.arange(frames, device=latents.device) if places is None else places
    rotary = _rotary(model, latents, places)
    tokens = model.patch_embedding(latents).flatten(3).permute(0, 2, 3, 1)  # B F S D
    embedder = model.condition_embedder
    time = embedder.time_embedder(embedder.timesteps_proj(levels.flatten()).to(latents.dtype)).unflatten(
        0, (batch, frames)
    )
    modulation = embedder.time_proj(embedder.act_fn(time))
    modulation = modulation + model.fps_projection(model.fps_embedding(fps_index))[:, None]
    modulation = modulation.unflatten(-1, (6, 1, -1))  # B F 6 1 D
    context = embedder.text_embedder(text.states)
    text_bias = text.bias[:, None, None, :]
    self_mask = _block_mask(places, tokens.shape[2], block_size) if block_size > 1 else None
    for block in model.blocks:
        tokens = _block(block, tokens, context, text_bias, modulation, rotary, self_mask)
    shift, scale = (model.scale_shift_table.unsqueeze(1) + time[:, :, None]).unsqueeze(3).unbind(2)
    out: Tensor = model.proj_out(model.norm_out(tokens) * (1 + scale) + shift)  # B F S 4C
    _, size_h, size_w = model.config.patch_size
    out = out.view(batch, frames, height // size_h, width // size_w, size_h, size_w, -1)
    return out.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, frames, height, width)


def _block(
    block: Any,
    tokens: Tensor,
    context: Tensor,
    text_bias: Tensor,
    modulation: Tensor,
    rotary: Tensor,
    self_mask: Tensor | None,
) -> Tensor:
    table = block.scale_shift_table.view(1, 1, 6, 1, -1)
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (table + modulation).unbind(2)
    hidden = block.norm1(tokens) * (1 + scale) + shift
    tokens = tokens + gate * _self_attention(block.attn1, hidden, rotary, self_mask)
    tokens = tokens + _text_attention(block.attn2, block.norm2(tokens), context, text_bias)
    out: Tensor = tokens + ffn_gate * block.ffn(block.norm3(tokens) * (1 + ffn_scale) + ffn_shift)
    return out


def _self_attention(layer: Any, hidden: Tensor, rotary: Tensor, mask: Tensor | None) -> Tensor:
    batch, frames, per_frame, _ = hidden.shape
    heads = (batch, frames * per_frame, layer.heads, -1)
    query = _rotate(layer.norm_q(layer.to_q(hidden).float()).view(heads), rotary).transpose(1, 2)
    key = _rotate(layer.norm_k(layer.to_k(hidden).float()).view(heads), rotary).transpose(1, 2)
    value = layer.to_v(hidden).view(heads).transpose(1, 2)
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out: Tensor = layer.to_out[0](seen.transpose(1, 2).reshape(hidden.shape))
    return out


def _text_attention(layer: Any, hidden: Tensor, context: Tensor, bias: Tensor) -> Tensor:
    batch, frames, per_frame, _ = hidden.shape
    query = layer.norm_q(layer.to_q(hidden).float()).view(batch, frames * per_frame, layer.heads, -1).transpose(1, 2)
    heads = (batch, context.shape[1], layer.heads, -1)
    key = layer.norm_k(layer.to_k(context).float()).view(heads).transpose(1, 2)
    value = layer.to_v(context).view(heads).transpose(1, 2)
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    out: Tensor = layer.to_out[0](seen.transpose(1, 2).reshape(hidden.shape))
    return out


def _rotary(model: Any, latents: Tensor, places: Tensor) -> Tensor:
    """Return the rotary factors of the frames at `places` as complex numbers, 1 N 1 D/2."""
    length = int(places.max()) + 1
    cos, sin = model.rope(latents[:, :, :1].expand(-1, -1, length, -1, -1))
    factors = torch.complex(cos[..., 0::2].float(), sin[..., 0::2].float())
    chosen: Tensor = factors.unflatten(1, (length, -1))[:, places].flatten(1, 2)
    return chosen


def _rotate(x: Tensor, rotary: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2)


def _block_mask(places: Tensor, per_frame: int, block_size: int) -> Tensor:
    block = places.div(block_size, rounding_mode="floor").repeat_interleave(per_frame)
    return block[None, :] <= block[:, None]


def start_transformer(model: Any) -> None:
    """Re-initialise for a short training: open gates, small residual branches, output 0, and text attention that sees
    the text.

    The sampler pads a caption to 512 positions, so at first padding would take 97 % of the attention. The biases below
    give its key a logit of about -6, which log(500) cancels; real keys hardly feel them.
    """
    depth = len(model.blocks)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        for block in model.blocks:
            for branch in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                branch.weight.mul_((2 * depth) ** -0.5)
            block.scale_shift_table.zero_()
            block.scale_shift_table[:, [2, 5]] = 1.0
            direction = torch.randn(block.attn2.to_k.bias.shape)
            direction /= direction.square().mean().sqrt()
            block.attn2.to_k.bias.copy_(0.02 * direction)
            block.attn2.to_q.bias.copy_(-1.5 * direction)
        model.condition_embedder.time_proj.weight.mul_(0.1)
        model.fps_projection.net[2].weight.zero_()
        nn.init.normal_(model.fps_embedding.weight, std=1 / math.sqrt(model.fps_embedding.embedding_dim))
        model.scale_shift_table.zero_()
        model.proj_out.weight.zero_()
