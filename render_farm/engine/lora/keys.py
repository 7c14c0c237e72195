"""Which layer of the transformer a tensor of a LoRA file belongs to, in every naming in use.

A name is a prefix, a layer and a part. Prefixes: `transformer.` (diffusers), `diffusion_model.` (ComfyUI and the
original Wan), `lora_unet_` (musubi, kohya; dots are underscores), `lycoris_` (the same), `pipe.dit.` (DiffSynth),
`lora_transformer_` (OneTrainer; underscores), `transformer.base_model.model.` (SimpleTuner), several of them, or none.
Layers go by diffusers' names or by the original model's (`scripts/convert_skyreelsv2_to_diffusers.py` of diffusers
relates them). Parts: `lora_A.weight` or
`lora_down.weight`, `lora_B.weight` or `lora_up.weight`, each with the scale of its fp8 numbers in `scale_weight`;
`alpha`; a bias: `lora_B.bias`, which alpha scales like the rest, or `diff_b`, which it does not; and `diff`, the whole
difference of a weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """The role of a tensor in its layer."""

    DOWN = "lora_A"
    UP = "lora_B"
    ALPHA = "alpha"
    UP_BIAS = "lora_B.bias"
    BIAS = "diff_b"
    DIFFERENCE = "diff"
    DOWN_SCALE = "lora_A.scale_weight"
    UP_SCALE = "lora_B.scale_weight"


@dataclass(frozen=True, kw_only=True)
class LoraKey:
    """One tensor's name, understood."""

    layer: str
    """diffusers' name of a linear layer."""
    part: Part


# diffusers' name -> the original's, for one block and for what is outside of blocks.
_IN_BLOCK = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
_OUTSIDE = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "fps_projection.net.0.proj": "fps_projection.0",
    "fps_projection.net.2": "fps_projection.2",
    "proj_out": "head.head",
}
_BLOCK = re.compile(r"(blocks[._])(\d+)([._].+)")
_PREFIXES = re.compile(
    r"(?:transformer\.base_model\.model\.|(?:transformer|diffusion_model|model|module|unet|dit|pipe\.dit)\.)*"
    r"(?:lora_unet__?|lora_transformer_|lycoris_)?"
)
"""Any of them, and several: some programs put their own before those of others."""
_WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch puts into the names of modules that are compiled, sharded or recomputed."""
# An adapter's name, such as `default`, may stand before `weight`.
_PARTS = (
    (re.compile(r"\.(lora_A|lora_down|lora\.down)(\.[\w.-]+)?\.weight$"), Part.DOWN),
    (re.compile(r"\.(lora_B|lora_up|lora\.up)(\.[\w.-]+)?\.weight$"), Part.UP),
    (re.compile(r"\.(lora_A|lora_down|lora\.down)(\.[\w.-]+)?\.(scale_weight|weight_scale)$"), Part.DOWN_SCALE),
    (re.compile(r"\.(lora_B|lora_up|lora\.up)(\.[\w.-]+)?\.(scale_weight|weight_scale)$"), Part.UP_SCALE),
    (re.compile(r"\.alpha$"), Part.ALPHA),
    (re.compile(r"\.lora_B(\.[\w.-]+)?\.bias$"), Part.UP_BIAS),
    (re.compile(r"\.diff_b$"), Part.BIAS),
    (re.compile(r"\.diff$"), Part.DIFFERENCE),
)


class KeyReader:
    """Understands tensor names for a transformer with certain linear layers."""

    def __init__(self, layers: Iterable[str]) -> None:
        self._layers: dict[str, str] = {}
        for layer in layers:
            for name in (layer, original_name(layer)):
                if name is not None:
                    self._layers[name] = self._layers[name.replace(".", "_")] = layer

    def read(self, name: str) -> LoraKey | None:
        """The layer and part that `name` stands for; None when it is of no layer here, or not of a LoRA."""
        split = _split(name)
        layer = split and self._layers.get(split[0])
        return LoraKey(layer=layer, part=split[1]) if split and layer else None

    def layer_above(self, name: str) -> str | None:
        """The layer that a tensor stands below whose own part is not known, such as `...to_q.lora_A.zero_point`."""
        name = _without_prefix(name)
        while "." in name:
            name = name.rpartition(".")[0]
            if name in self._layers:
                return self._layers[name]
        return None

    def unknown_prefix(self, name: str) -> str:
        """The text before a known layer in `name`. "" when there is no such layer in it."""
        split = _split(name)
        parts = split[0].split(".") if split else []
        for start in range(1, len(parts)):
            if ".".join(parts[start:]) in self._layers:
                return ".".join(parts[:start]) + "."
        found = split and re.fullmatch(r"(.+_)(blocks_\d+_.+)", split[0])
        return found[1] if found and found[2] in self._layers else ""

    def is_of_missing_block(self, name: str) -> bool:
        """Whether `name` means a layer that each block has, of a block that this transformer does not have."""
        split = _split(name)
        block = split and _BLOCK.fullmatch(split[0])
        return bool(split and block and split[0] not in self._layers and f"{block[1]}0{block[3]}" in self._layers)


def original_name(layer: str) -> str | None:
    """The original model's name of diffusers' `layer`; None when it has none."""
    block = _BLOCK.fullmatch(layer)
    if block is None:
        return _OUTSIDE.get(layer)
    inner = _IN_BLOCK.get(block[3][1:])
    return inner and f"{block[1]}{block[2]}.{inner}"


def _split(name: str) -> tuple[str, Part] | None:
    """(layer as the file names it, part); None when no part is at the end."""
    name = _without_prefix(name)
    for pattern, part in _PARTS:
        found = pattern.search(name)
        if found:
            return name[: found.start()], part
    return None


def _without_prefix(name: str) -> str:
    name = _WRAPPERS.sub("", name)
    found = _PREFIXES.match(name)
    return name[found.end() :] if found else name
