"""What a LoRA file does to a transformer, from its header alone: which tensors go to which layer, and with what scale.

Everything that makes a LoRA unusable is found here, before a weight is read.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from render_farm.engine.lora.keys import KeyReader, Part
from render_farm.errors import InputError
from render_farm.job import MAX_FLOAT32, shown
from render_farm.media.fetching.uris import refusal
from render_farm.media.weights import TensorInfo, WeightsHeader

LinearShape = tuple[int, int]
"""(out features, in features), as a linear layer's weight."""

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_WHOLE_NUMBERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
_OTHER_KINDS = {
    "lokr_": "a LoKr",
    "hada_": "a LoHa",
    "oft_": "an OFT",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoRA with a Tucker core (lora_mid)",
}
_METADATA = "lora_adapter_metadata"
_FORMATS = (
    "transformer.blocks.0.attn1.to_q.lora_A.weight (diffusers), diffusion_model.blocks.0.self_attn.q.lora_down.weight "
    "(original) and lora_unet_blocks_0_self_attn_q.lora_down.weight (musubi) are understood"
)
_LEFT_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class LayerTensors:
    """The tensors of one layer by their names in the file."""

    down: str | None = None
    """(rank, in features)."""
    up: str | None = None
    """(out features, rank)."""
    rank: int = 0
    down_scale: str | None = None
    """A scalar that multiplies `down`, whose numbers are fp8."""
    up_scale: str | None = None
    difference: str | None = None
    """(out features, in features): added to the layer's weight along with up @ down. Alpha does not scale it."""
    alpha: str | float | None = None
    """A scalar tensor's name, or the number from the file's metadata; None: the rank, so that nothing is scaled."""
    bias: str | None = None
    """(out features), added to the layer's output."""
    scales_bias: bool = False
    """Whether alpha counts for the bias too (`Part.UP_BIAS`)."""
    root_scale: bool = False
    """Divide alpha by the root of the rank (rank-stabilised LoRA), not by the rank."""

    def scale(self, alpha: float | None) -> float:
        """What multiplies up @ down, for the value of `alpha`."""
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(self.rank) if self.root_scale else self.rank)


@dataclass(frozen=True, kw_only=True)
class LoraLayout:
    """A file, sorted by layer."""

    layers: Mapping[str, LayerTensors]
    left: tuple[str, ...]
    """Tensors that are not understood here."""

    def warnings(self, shown: str) -> tuple[str, ...]:
        """A warning about a LoRA (named `shown`) that is only partly applied."""
        if not self.left:
            return ()
        more = f" and {len(self.left) - _LEFT_SHOWN} more" if len(self.left) > _LEFT_SHOWN else ""
        return (
            f"LoRA {shown}: {len(self.left)} of its tensors fit no layer of the transformer and are not applied: "
            f"{', '.join(self.left[:_LEFT_SHOWN])}{more}",
        )


def lay_out(uri: str, header: WeightsHeader, shapes: Mapping[str, LinearShape], *, model: str) -> LoraLayout:
    """Sort the tensors of the LoRA at `uri` by the transformer's linear layers, whose shapes are `shapes`.

    Raises `InputError`: nothing fits, it is for a model of another size, half of a pair is missing, or it is no LoRA
    but something else (DoRA, LoKr, LoHa, a PEFT adapter without its alpha).
    """
    _refuse_other_kinds(uri, header)
    keys = KeyReader(shapes)
    parts: dict[str, dict[Part, str]] = defaultdict(dict)
    left = []
    for name in sorted(header.tensors):
        key = keys.read(name)
        if key is None:
            if keys.is_of_missing_block(name):
                raise _another_model(uri, model, f"it has {name}, and the model has no such block")
            left.append(name)
        elif key.part in parts[key.layer]:
            both = f"{parts[key.layer][key.part]} and {name}"
            raise refusal(uri, f"it has {key.layer} twice: {both}", "keep one of them")
        else:
            parts[key.layer][key.part] = name
    metadata = _Metadata(uri, header)
    layers = {}
    for layer, names in parts.items():
        if names.keys() <= {Part.ALPHA}:
            left += names.values()
            continue
        layers[layer] = _layer(uri, layer, names, header.tensors, shapes[layer], model, metadata)
    for name in left:
        if keys.layer_above(name) in layers:
            raise refusal(
                uri, f"it has {name}, which changes what is applied and is not understood", "save it as a plain LoRA"
            )
    if not layers:
        first = min(header.tensors, default="none")
        prefix = keys.unknown_prefix(first)
        reason = f"its names begin with {prefix!r}, which is not known" if prefix else f"the first is {first}"
        raise refusal(uri, f"none of its {len(header.tensors)} tensors fits a layer of {model}; {reason}", _FORMATS)
    return LoraLayout(layers=layers, left=tuple(sorted(left)))


def _refuse_other_kinds(uri: str, header: WeightsHeader) -> None:
    for name in header.tensors:
        for mark, kind in _OTHER_KINDS.items():
            if mark in name:
                raise refusal(uri, f"it is {kind} ({name}), of which a part alone would be wrong", "give a plain LoRA")
        if name.startswith("base_model.model."):
            raise refusal(
                uri,
                f"it is PEFT's own format ({name}), whose alpha is in another file",
                "save it with diffusers' SkyReelsV2Pipeline.save_lora_weights",
            )


def _layer(
    uri: str,
    layer: str,
    names: Mapping[Part, str],
    tensors: Mapping[str, TensorInfo],
    shape: LinearShape,
    model: str,
    metadata: _Metadata,
) -> LayerTensors:
    for part, other in ((Part.DOWN, Part.UP), (Part.UP, Part.DOWN)):
        if part in names and other not in names:
            raise refusal(uri, f"it has {names[part]}, but not its other half ({other})", "copy or train it again")
    out_features, in_features = shape
    rank = 0
    if Part.DOWN in names:
        down, up = (_matrix(tensors[names[part]].shape) for part in (Part.DOWN, Part.UP))
        if len(down) != 2 or len(up) != 2 or down[1] != in_features or up[0] != out_features:
            sizes = f"{layer} is {_times(down)} and {_times(up)} there, for a layer of {_of(up, 0)} x {_of(down, 1)}"
            raise _another_model(uri, model, f"{sizes}; the model's is {out_features} x {in_features}")
        if down[0] != up[1] or not down[0]:
            raise refusal(uri, f"the halves of {layer} have ranks {down[0]} and {up[1]}", "copy or train it again")
        rank = down[0]
    difference = names.get(Part.DIFFERENCE)
    if difference is not None and _matrix(tensors[difference].shape) != shape:
        sizes = f"{difference} is {_times(tensors[difference].shape)}"
        raise _another_model(uri, model, f"{sizes}; the model's is {out_features} x {in_features}")
    bias = names.get(Part.UP_BIAS) or names.get(Part.BIAS)
    if bias is not None and tensors[bias].shape != (out_features,):
        raise _another_model(uri, model, f"{bias} has {_times(tensors[bias].shape)} values, not {out_features}")
    alpha: str | float | None = names.get(Part.ALPHA)
    for part in (Part.ALPHA, Part.DOWN_SCALE, Part.UP_SCALE):
        if part in names and math.prod(tensors[names[part]].shape) != 1:
            raise refusal(uri, f"{names[part]} has shape {_times(tensors[names[part]].shape)}; it must be one number")
    for name in names.values():
        usable = (*_FLOATS, *_WHOLE_NUMBERS) if name == alpha else _FLOATS
        if tensors[name].dtype not in usable:
            raise refusal(uri, f"{name} has dtype {tensors[name].dtype}", f"{', '.join(usable)} would work")
    return LayerTensors(
        down=names.get(Part.DOWN),
        up=names.get(Part.UP),
        rank=rank,
        down_scale=names.get(Part.DOWN_SCALE),
        up_scale=names.get(Part.UP_SCALE),
        difference=difference,
        alpha=metadata.alpha_of(layer) if alpha is None else alpha,
        bias=bias,
        scales_bias=Part.UP_BIAS in names,
        root_scale=alpha is None and metadata.root_scale,
    )


def _another_model(uri: str, model: str, reason: str) -> InputError:
    return refusal(uri, f"it is a LoRA for another model than {model}: {reason}", "give one that was trained for it")


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's weight of one pixel as the matrix that it is."""
    num_dims = next((num_dims for num_dims in range(len(shape), 2, -1) if shape[num_dims - 1] != 1), 2)
    return shape[:num_dims]


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _of(shape: tuple[int, ...], dim: int) -> str:
    return str(shape[dim]) if dim < len(shape) else "?"


class _Metadata:
    """The part of the training's configuration that decides the result: `save_lora_weights` and
    `save_lora_adapter` of diffusers, and kohya's scripts (`ss_network_alpha`)."""

    def __init__(self, uri: str, header: WeightsHeader) -> None:
        self._uri = uri
        document = self._document(header)
        prefix = "transformer."
        prefixed = {name.removeprefix(prefix): value for name, value in document.items() if name.startswith(prefix)}
        # `save_lora_adapter` of diffusers' models writes the names alone; those of other components have a dot.
        self._config = prefixed or {name: value for name, value in document.items() if "." not in name}
        self.root_scale = bool(self._config.get("use_rslora"))
        if self._config.get("use_dora"):
            raise refusal(uri, "it is a DoRA, of which a part alone would be wrong", "give a plain LoRA")
        self._alpha_of_kohya = self._number(header.metadata.get("ss_network_alpha"))
        self._alphas = dict(self._checked_alphas())

    def _number(self, text: str | None) -> float | None:
        try:
            return None if text in (None, "None", "") else float(text) or None  # kohya's scripts take 0 for the rank
        except ValueError:
            raise refusal(self._uri, f"ss_network_alpha {text!r:.40} in its metadata is not a number") from None

    def _document(self, header: WeightsHeader) -> dict[str, Any]:
        try:
            document = json.loads(header.metadata.get(_METADATA) or "{}")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise refusal(self._uri, f"its metadata {_METADATA} is not a JSON object", "save it again")
        return document

    def _checked_alphas(self) -> Iterator[tuple[str, float]]:
        """(layer or the end of its name, alpha); "" is for all others."""
        usual = self._config.get("lora_alpha", self._alpha_of_kohya)
        pattern = self._config.get("alpha_pattern") or {}
        if not isinstance(pattern, dict):
            raise refusal(self._uri, f"alpha_pattern {shown(pattern)} in its metadata is not a JSON object")
        given = [("", usual), *pattern.items()]
        for name, alpha in given:
            literal = name.removeprefix("^")
            if not all(character.isalnum() or character in "._" for character in literal):
                raise refusal(self._uri, f"the alpha of {name!r} in its metadata is for a pattern", "name whole layers")
            if alpha is not None:
                if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= MAX_FLOAT32:
                    raise refusal(self._uri, f"alpha {shown(alpha)} in its metadata is not a number that float32 holds")
                yield literal, float(alpha)

    def alpha_of(self, layer: str) -> float | None:
        for name, alpha in self._alphas.items():
            if name and (layer == name or layer.endswith(f".{name}")):
                return alpha
        return self._alphas.get("")
