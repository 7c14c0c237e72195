"""How the autoencoder starts: an encoder that is a fixed linear map, and a decoder whose first output is already a
blur.

A learned encoder would keep the transformer waiting, and a few minutes of a CPU make a poor one. The latents of `tiny`
are therefore designed: each frame is averaged over 4x4 pixels, each 2x2 of those cells becomes mean, horizontal,
vertical and diagonal difference per colour (12 channels), averaged over the latent frame's 4 frames; 2 more channels
hold how the luminance of those four changes from the first to the second pair of frames. The last 2 channels say where
in the picture they are, from left to right and from top to bottom: rotary positions are relative, so nothing else tells
the transformer where the picture's centre is. (An encoder that learns marks its zero-padded edges, too.) The decoder
learns to draw outlines from the 14. `linear_latents` computes the map directly; `design_encoder` writes it into
AutoencoderKLWan's weights (a test compares them).
Shapes: clips B 3 T H W in [-1, 1] (T = 4n + 1), latents B 16 T' H/8 W/8 (T' = n + 1), not normalised.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanMidBlock,
    WanResample,
    WanResidualBlock,
)
from torch import Tensor, nn

COLOURS = (0, 1, 2)
CONSTANT = 7
"""Channel that is CONSTANT_VALUE everywhere: it makes the output norms nearly linear."""
CONSTANT_VALUE = 200.0
FEATURES = (*COLOURS, *range(8, 19))
"""Channels of the 14 features before the encoder's output norm."""
NUM_FEATURES = len(FEATURES)
NEGATED = (3, 4, 5, 6, *range(21, 31))
"""Channels of their negatives: silu(a) - silu(-a) = a undoes the activation."""
OUTWARD = ((1, 0), (1, 2), (0, 1), (2, 1))
"""Where a 3x3 kernel looks to the left, right, top and bottom."""
NEAR, NEARER = (31, 32, 33, 34), (35, 36, 37, 38)
"""Channels that mark the two and the four latents nearest to each of these edges."""
MARK = 2.0
"""Height of a mark between two convolutions, small against the constant."""
EDGE = 2.0
"""Value of the last two latents at the right and bottom edges (negated at the left and top)."""
SIGNS = torch.tensor([[[1, 1], [1, 1]], [[-1, 1], [-1, 1]], [[-1, -1], [1, 1]], [[1, -1], [-1, 1]]]) / 4
"""Mean, horizontal, vertical and diagonal difference of 2x2 cells."""


def linear_latents(clips: Tensor) -> Tensor:
    """Return the latents of clips."""
    batch, _, frames, height, width = clips.shape
    cells = F.avg_pool2d(clips.transpose(1, 2).flatten(0, 1), 4)
    kernel = SIGNS.repeat(3, 1, 1)[:, None].to(clips)
    parts = F.conv2d(cells, kernel, stride=2, groups=3).view(batch, frames, 3, 4, height // 8, width // 8)
    parts = parts.permute(0, 3, 2, 1, 4, 5)  # B part colour T H W
    pairs = parts[:, :, :, 1:].unflatten(3, (-1, 2, 2)).mean(5)  # B part colour T' pair H W
    mean = torch.cat([parts[:, :, :, :1], pairs.mean(4)], dim=3).flatten(1, 2)
    change = ((pairs[:, :2, :, :, 1] - pairs[:, :2, :, :, 0]) / 2).mean(2)
    place = torch.zeros_like(mean[:, :2])
    place[:, 0] = _slope(place.shape[4]).to(clips)
    place[:, 0, 0] += EDGE
    place[:, 1] = _slope(place.shape[3]).to(clips)[:, None]
    return torch.cat([mean, F.pad(change, (0, 0, 0, 0, 1, 0)), place], dim=1)


def _slope(length: int) -> Tensor:
    """Return what the place's latents say along one side: -EDGE to EDGE, and in long sides 0 between."""
    from_start = torch.arange(length)
    near = 1 - 2 / 7 * torch.stack([from_start, length - 1 - from_start])
    start, end = near.clamp_min(0)
    slope: Tensor = EDGE * (end - start)
    return slope


@torch.no_grad()
def design_encoder(vae: Any) -> None:
    """Write the linear map into the encoder's weights. Its residual branches stay, at zero."""
    encoder: Any = vae.encoder
    _clear(encoder.modules())
    for channel in COLOURS:
        encoder.conv_in.weight[channel, channel, -1, 1, 1] = 1
    encoder.conv_in.bias[CONSTANT] = CONSTANT_VALUE
    downs: list[Any] = [layer for layer in encoder.down_blocks if isinstance(layer, WanResample)]
    last = downs[-1]
    for layer in downs[:-1]:
        layer.resample[1].weight[COLOURS, COLOURS, :2, :2] = 0.25
    for colour in COLOURS:
        for part in range(4):
            last.resample[1].weight[FEATURES[3 * part + colour], colour, :2, :2] = SIGNS[part]
    for layer in downs:
        layer.resample[1].weight[CONSTANT, CONSTANT, 0, 0] = 1
        if layer.mode == "downsample3d":
            kept = list(FEATURES[:12]) if layer is last else list(COLOURS)
            layer.time_conv.weight[kept, kept, 1:] = 0.5
            layer.time_conv.weight[CONSTANT, CONSTANT, -1] = 1
    for part in range(2):
        sources = list(FEATURES[3 * part : 3 * part + 3])
        last.time_conv.weight[FEATURES[12 + part], sources, 1] = -1 / 6
        last.time_conv.weight[FEATURES[12 + part], sources, 2] = 1 / 6
    shortcut: Any = [layer for layer in encoder.down_blocks if isinstance(layer, WanResidualBlock)][-1].conv_shortcut
    gain = CONSTANT_VALUE / encoder.norm_out.scale
    for latent, (feature, negated) in enumerate(zip(FEATURES, NEGATED, strict=True)):
        shortcut.weight[negated] = -shortcut.weight[feature]
        encoder.conv_out.weight[latent, feature, -1, 1, 1] = gain
        encoder.conv_out.weight[latent, negated, -1, 1, 1] = -gain
    level = F.silu(torch.tensor(encoder.norm_out.scale)).item()  # the constant channel after norm and activation
    encoder.conv_out.weight[14, CONSTANT, -2, 1, 1] = -EDGE / level  # zeros before the film show its first frame
    encoder.conv_out.bias[14] = EDGE
    _mark_edges(encoder, level)
    _read_place(encoder)
    _zero(vae.quant_conv)
    for latent in range(vae.config.z_dim):
        vae.quant_conv.weight[latent, latent] = 1
    vae.quant_conv.bias[vae.config.z_dim :] = -12.0  # log-variance: the latents carry no noise


def _mark_edges(encoder: Any, level: float) -> None:
    """Let the middle's two residual branches mark the latents near each edge: each convolution sees one further."""
    first, second = encoder.mid_block.resnets
    for resnet in (first, second):
        resnet.conv1.weight[CONSTANT, CONSTANT, -1, 1, 1] = CONSTANT_VALUE / level
    gain = level * MARK / (first.norm1.scale * MARK / CONSTANT_VALUE)
    for outward, near, nearer in zip(OUTWARD, NEAR, NEARER, strict=True):
        first.conv1.weight[(near, CONSTANT, -1, *outward)] = -MARK / level  # outside are zeros
        first.conv1.bias[near] = MARK
        for layer, source, target in (
            (first.conv2, near, near),
            (second.conv1, near, near),
            (second.conv2, near, nearer),
        ):
            layer.weight[target, source, -1, 1, 1] = gain / level
            layer.weight[(target, source, -1, *outward)] = 0.5 * gain / level


def _read_place(encoder: Any) -> None:
    """Let the last convolution make the place's latents of the marks, by least squares over one row or column."""
    seen: list[Tensor] = []
    hook = encoder.norm_out.register_forward_hook(lambda _module, _inputs, output: seen.append(F.silu(output)))
    encoder(torch.zeros(1, 3, 1, 64, 64))
    hook.remove()
    marks = seen[0][0, :, 0]  # C 8 8
    for latent, sides, line in ((14, (0, 1), marks[:, 4]), (15, (2, 3), marks[:, :, 4])):
        channels = [channels[side] for side in sides for channels in (NEAR, NEARER)]
        taps = F.pad(line[channels], (1, 1)).unfold(1, 8, 1)  # channel tap place
        weights = torch.linalg.lstsq(
            taps.flatten(0, 1).T.double(), _slope(8)[:, None].double(), driver="gelsd"
        ).solution
        kernel = encoder.conv_out.weight[latent, :, -1]
        target = kernel[:, 1] if latent == 14 else kernel[:, :, 1]
        target[channels] = weights.view(len(channels), 3).to(target)


def _zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _clear(modules: Iterable[Any]) -> None:
    """Zero the branches and paths; shortcuts copy channels."""
    for module in modules:
        if (isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.kernel_size[-1] == 3) or _is_time(module):
            _zero(module)
        if isinstance(module, WanResidualBlock):
            _copy_channels(module.conv_shortcut)
        elif isinstance(module, WanMidBlock):
            for attention in module.attentions:
                _zero(attention.proj)


def _is_time(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv3d) and module.kernel_size == (3, 1, 1)


def _copy_channels(shortcut: Any) -> None:
    if isinstance(shortcut, nn.Conv3d):
        _zero(shortcut)
        for channel in range(min(shortcut.in_channels, shortcut.out_channels)):
            shortcut.weight[channel, channel] = 1


@torch.no_grad()
def start_decoder(vae: Any) -> None:
    """Initialise the decoder: colours pass straight through, all else keeps its variance, residual branches start at
    zero.

    With PyTorch's default initialisation the biases drown the signal before the first norm, and training stays at 15
    to 20 dB for long.
    """
    decoder: Any = vae.decoder
    layers: list[Any] = [*decoder.modules(), vae.post_quant_conv]
    for module in layers:
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            assert module.bias is not None
            inputs = module.in_channels * module.kernel_size[-1] * module.kernel_size[-2]
            nn.init.trunc_normal_(module.weight, std=0.7 * inputs**-0.5)
            nn.init.trunc_normal_(module.bias, std=0.1)
            if isinstance(module, nn.Conv3d):
                module.weight[:, :, :-1] = 0
    for module in decoder.modules():
        if isinstance(module, WanResidualBlock):
            _zero(module.conv2)
            _copy_channels(module.conv_shortcut)
        elif isinstance(module, WanMidBlock):
            for attention in module.attentions:
                _zero(attention.proj)
        elif isinstance(module, WanResample):
            _start_up(module)
    _copy_channels(vae.post_quant_conv)
    decoder.conv_in.weight[:, NUM_FEATURES:] = 0  # nothing to draw from the edges
    for channel, feature in enumerate(FEATURES):  # latents go to the channels of the encoder's features
        decoder.conv_in.weight[feature] = 0
        decoder.conv_in.weight[feature, channel, -1, 1, 1] = 1
        decoder.conv_in.bias[feature] = 0
    decoder.conv_in.weight[CONSTANT] = 0
    decoder.conv_in.bias[CONSTANT] = 3.0
    first = decoder.up_blocks[0].upsamplers[0].resample[1]
    for colour in COLOURS:  # nearest neighbour, then a slope: the differences of the 2x2 cells, roughly
        first.weight[colour, FEATURES[3 + colour], 1] = 0.5 * torch.tensor([1.0, 0.0, -1.0])
        first.weight[colour, FEATURES[6 + colour], :, 1] = 0.5 * torch.tensor([1.0, 0.0, -1.0])
    last = decoder.up_blocks[-2].upsamplers[0].resample[1]
    last.weight[3:6], last.bias[3:6] = -last.weight[:3], -last.bias[:3]
    for colour in COLOURS:
        decoder.conv_out.weight[colour] = 0
        decoder.conv_out.weight[colour, colour, -1, 1, 1] = 1.3
        decoder.conv_out.weight[colour, colour + 3, -1, 1, 1] = -1.3
        decoder.conv_out.bias[colour] = 0


def _start_up(layer: Any) -> None:
    convolution = layer.resample[1]
    for channel in (*COLOURS, CONSTANT):
        convolution.weight[channel] = 0
        convolution.weight[channel, channel, 1, 1] = 1
        convolution.bias[channel] = 0
    if layer.mode == "upsample3d":
        weight = layer.time_conv.weight
        nn.init.zeros_(weight)
        nn.init.zeros_(layer.time_conv.bias)
        weight[:, :, -1, 0, 0] = torch.eye(weight.shape[1]).repeat(2, 1)
