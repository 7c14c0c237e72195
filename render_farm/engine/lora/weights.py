"""A LoRA's tensors in memory.

Shapes: R rank, I and O the layer's features in and out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from render_farm.engine.lora.layout import LayerTensors, LinearShape, lay_out
from render_farm.media.fetching.uris import refusal
from render_farm.media.limits import InputLimits
from render_farm.media.weights import fetched_weights
from render_farm.uris import shown_uri


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """What is added to a layer's output for input x, times the job's weight: scale * up(down(x)) + bias."""

    down: Tensor
    """(R I), on the CPU, in the file's dtype."""
    up: Tensor
    """(O R)."""
    scale: float
    bias: Tensor | None = None
    """(O)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lora:
    """One LoRA, ready to be attached to the transformer it was read for."""

    sha256: str
    """Of its file."""
    layers: Mapping[str, LowRank]
    warnings: tuple[str, ...] = ()
    """A warning about the part that is not applied."""

    @property
    def num_parameters(self) -> int:
        """Of all layers."""
        return sum(tensor.numel() for tensor in self._tensors)

    @property
    def num_bytes(self) -> int:
        """Memory its tensors take as they are here."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors)

    @property
    def _tensors(self) -> list[Tensor]:
        return [t for layer in self.layers.values() for t in (layer.down, layer.up, layer.bias) if t is not None]


def read_lora(uri: str, shapes: Mapping[str, LinearShape], *, model: str, limits: InputLimits | None = None) -> Lora:
    """Fetch the LoRA at `uri` and read it for a transformer with the linear layers `shapes`.

    Raises `InputError` as `read_weights_header` and `lay_out` do, and for tensors that hold NaN or infinity.
    """
    with fetched_weights(uri, limits or InputLimits()) as (path, header):
        layout = lay_out(uri, header, shapes, model=model)
        return Lora(
            sha256=header.sha256,
            layers=_read_layers(uri, path, layout.layers, shapes),
            warnings=layout.warnings(shown_uri(uri)),
        )


def _factors(difference: Tensor) -> tuple[Tensor, Tensor]:
    """A weight's whole difference (O I) as (down, up) of the smallest rank that holds any matrix, exactly."""
    out_features, in_features = difference.shape
    if out_features <= in_features:
        return difference, torch.eye(out_features)
    return torch.eye(in_features), difference


def _read_layers(
    uri: str, path: Path, layers: Mapping[str, LayerTensors], shapes: Mapping[str, LinearShape]
) -> dict[str, LowRank]:
    try:
        with safe_open(path, framework="pt") as file:

            def read(name: str) -> Tensor:
                tensor: Tensor = file.get_tensor(name)
                if not torch.isfinite(tensor.float()).all():
                    raise refusal(uri, f"{name} holds numbers that are not finite", "train it again")
                return tensor

            def read_half(name: str, scale: str | None) -> Tensor:
                tensor = read(name).flatten(1)  # what has further dimensions has one pixel
                return tensor if scale is None else tensor.float() * read(scale).float().item()

            def read_layer(names: LayerTensors, shape: LinearShape) -> LowRank:
                alpha = read(names.alpha).item() if isinstance(names.alpha, str) else names.alpha
                scale = names.scale(alpha) if names.rank else 1.0
                bias = None if names.bias is None else read(names.bias)
                if bias is not None and names.scales_bias:
                    bias = bias.float() * scale
                if names.down is None or names.up is None:  # a bias, a whole difference or both
                    down, up = torch.zeros(0, shape[1]), torch.zeros(shape[0], 0)
                else:
                    down, up = read_half(names.down, names.down_scale), read_half(names.up, names.up_scale)
                if names.difference is not None:
                    difference = read_half(names.difference, None).float()
                    right, left = _factors(difference)
                    down, up, scale = torch.cat([down.float(), right]), torch.cat([up.float() * scale, left], 1), 1.0
                return LowRank(down=down, up=up, scale=scale, bias=bias)

            return {layer: read_layer(names, shapes[layer]) for layer, names in layers.items()}
    except SafetensorError as error:
        raise refusal(uri, f"it cannot be read: {error}", "copy it again") from None
