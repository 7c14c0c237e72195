"""LoRA files: every naming is understood as diffusers understands it, and what cannot be applied is refused."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from safetensors.torch import save_file

from render_farm.engine.lora.file import save_lora
from render_farm.engine.lora.keys import KeyReader, original_name
from render_farm.engine.lora.layout import lay_out
from render_farm.engine.lora.linear_layers import linear_shapes
from render_farm.engine.lora.weights import read_lora
from render_farm.errors import InputError
from render_farm.media.weights import TensorInfo, WeightsHeader

RANK = 3


def model(**config) -> SkyReelsV2Transformer3DModel:
    shape = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 80, "num_layers": 2, "text_dim": 32}
    with torch.device("meta"):
        return SkyReelsV2Transformer3DModel(**{**shape, "freq_dim": 64, "inject_sample_info": True, **config})


SHAPES = linear_shapes(model())
IMAGE_SHAPES = linear_shapes(model(image_dim=40, added_kv_proj_dim=48, in_channels=36, inject_sample_info=False))


def halves(shapes) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(RANK, i, generator=generator), torch.randn(o, RANK, generator=generator))
        for name, (o, i) in shapes.items()
    }


def in_original_names(layers, prefix="diffusion_model.", down="lora_A", up="lora_B", alpha=None, underscores=False):
    tensors = {}
    for layer, (a, b) in layers.items():
        name = original_name(layer)
        assert name is not None, layer
        name = prefix + (name.replace(".", "_") if underscores else name)
        tensors[f"{name}.{down}.weight"], tensors[f"{name}.{up}.weight"] = a, b
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def products(lora) -> dict[str, torch.Tensor]:
    return {name: part.scale * part.up.double() @ part.down.double() for name, part in lora.layers.items()}


def of_diffusers(converted) -> dict[str, torch.Tensor]:
    names = {key.split(".lora_")[0] for key in converted}
    return {
        name.removeprefix("transformer."): converted[f"{name}.lora_B.weight"].double()
        @ converted[f"{name}.lora_A.weight"].double()
        for name in names
    }


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


def read(tmp_path, tensors, shapes=SHAPES, metadata=None):
    path = tmp_path / "x.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return read_lora(str(path), shapes, model="m")


# --- names ---


def test_every_linear_layer_has_an_original_name():
    for shapes in (SHAPES, IMAGE_SHAPES):
        assert all(original_name(layer) for layer in shapes)
        assert len({original_name(layer) for layer in shapes}) == len(shapes)


@pytest.mark.parametrize("shapes", [SHAPES, IMAGE_SHAPES])
@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize(("down", "up"), [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_original_names_as_diffusers_converts_them(tmp_path, shapes, down, up, alpha):
    # What diffusers' conversion raises on is left out: the frame-rate projection, and alphas outside of blocks.
    known = {n: t for n, t in halves(shapes).items() if not n.startswith("fps_") and (alpha is None or "blocks" in n)}
    tensors = in_original_names(known, down=down, up=up, alpha=alpha)
    lora = read(tmp_path, tensors, shapes)
    assert_same(products(lora), of_diffusers(_convert_non_diffusers_wan_lora_to_diffusers(dict(tensors))))
    assert not lora.warnings


@pytest.mark.parametrize("shapes", [SHAPES, IMAGE_SHAPES])
def test_musubi_names_as_diffusers_converts_them(tmp_path, shapes):
    known = {name: tensors for name, tensors in halves(shapes).items() if name.startswith("blocks.")}
    tensors = in_original_names(known, "lora_unet_", "lora_down", "lora_up", alpha=2.0, underscores=True)
    assert "lora_unet_blocks_0_self_attn_q.lora_down.weight" in tensors
    lora = read(tmp_path, tensors, shapes)
    assert_same(products(lora), of_diffusers(_convert_musubi_wan_lora_to_diffusers(dict(tensors))))


def test_a_musubi_lora_of_some_layers_only():
    """On which diffusers' conversion fails (KeyError)."""
    layers = {"blocks.1.attn1.to_q": halves(SHAPES)["blocks.1.attn1.to_q"]}
    tensors = in_original_names(layers, "lora_unet_", "lora_down", "lora_up", alpha=1.0, underscores=True)
    layout = lay_out("x", header(tensors), SHAPES, model="m")
    assert list(layout.layers) == ["blocks.1.attn1.to_q"] and not layout.left


@pytest.mark.parametrize(
    "name",
    [
        "transformer.blocks.1.ffn.net.0.proj.lora_A.weight",
        "transformer.blocks.1.ffn.net.0.proj.lora.down.weight",
        "blocks.1.ffn.net.0.proj.lora_A.default.weight",
        "diffusion_model.blocks.1.ffn.0.lora_down.weight",
        "model.diffusion_model.blocks.1.ffn.0.lora_A.weight",
        "blocks.1.ffn.0.lora_A.default.weight",
        "lora_unet_blocks_1_ffn_0.lora_down.weight",
        "lora_unet_blocks_1_ffn_net_0_proj.lora_down.weight",
    ],
)
def test_lora_names_of_every_prefix_are_understood(name):
    key = KeyReader(SHAPES).read(name)
    assert key is not None and (key.layer, key.part) == ("blocks.1.ffn.net.0.proj", "lora_A")


# --- scale ---


def scales(tmp_path, tensors, metadata=None) -> set[float]:
    return {round(part.scale, 6) for part in read(tmp_path, tensors, metadata=metadata).layers.values()}


def test_alpha_of_a_tensor_of_the_metadata_or_none(tmp_path):
    layers = halves(SHAPES)
    path = tmp_path / "y.safetensors"
    save_lora(path, layers, alpha=6.0)
    lora = read_lora(str(path), SHAPES, model="m")
    assert {part.scale for part in lora.layers.values()} == {6.0 / RANK} and lora.layers.keys() == layers.keys()
    save_lora(path, layers)
    assert {part.scale for part in read_lora(str(path), SHAPES, model="m").layers.values()} == {1.0}
    assert scales(tmp_path, in_original_names(layers, alpha=6.0)) == {2.0}
    one = {n: t for n, t in in_original_names(layers, "transformer.").items() if "blocks.0.self_attn.q" in n}
    config = {"transformer.r": RANK, "transformer.lora_alpha": 6, "transformer.use_rslora": True}
    assert scales(tmp_path, one, {"lora_adapter_metadata": json.dumps(config)}) == {round(6 / RANK**0.5, 6)}
    config = {"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"blocks.0.attn1.to_q": 9}}
    assert scales(tmp_path, one, {"lora_adapter_metadata": json.dumps(config)}) == {3.0}


def test_metadata_of_save_lora_adapter(tmp_path):
    """Which writes PEFT's names without the prefix that the pipelines' `save_lora_weights` puts before them."""
    pytest.importorskip("peft")
    from peft import LoraConfig

    transformer = model().to_empty(device="cpu")
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=6, target_modules=["attn1.to_q"], use_rslora=True))
    transformer.save_lora_adapter(tmp_path)
    [path] = tmp_path.glob("*.safetensors")
    lora = read_lora(str(path), SHAPES, model="m")
    assert {round(part.scale, 6) for part in lora.layers.values()} == {round(6 / RANK**0.5, 6)}


def test_metadata_with_and_without_the_prefix(tmp_path):
    one = {n: t for n, t in in_original_names(halves(SHAPES), "").items() if "blocks.0.self_attn.q" in n}
    config = {"r": RANK, "lora_alpha": 6, "text_encoder.lora_alpha": 30}
    assert scales(tmp_path, one, {"lora_adapter_metadata": json.dumps(config)}) == {2.0}
    config["transformer.lora_alpha"] = 9
    assert scales(tmp_path, one, {"lora_adapter_metadata": json.dumps(config)}) == {3.0}


# --- what cannot be applied ---


def header(tensors, metadata=None) -> WeightsHeader:
    infos = {name: TensorInfo(dtype="F32", shape=tuple(tensor.shape)) for name, tensor in tensors.items()}
    return WeightsHeader(sha256="0", tensors=infos, metadata=metadata or {})


def tensors_of(layer: str, down, up, prefix="transformer.") -> dict[str, torch.Tensor]:
    return {
        f"{prefix}{layer}.lora_A.weight": torch.empty(down, device="meta"),
        f"{prefix}{layer}.lora_B.weight": torch.empty(up, device="meta"),
    }


Q = "blocks.0.attn1.to_q"
GOOD = tensors_of(Q, (3, 48), (48, 3))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.down.lora_A.weight": torch.empty(1)}, r"none of its 1 tensors fits a layer of m; the first is unet"),
        ({}, "none of its 0 tensors"),
        (
            tensors_of(Q, (3, 1536), (1536, 3)),
            r"another model than m: blocks.0.attn1.to_q is 3 x 1536 and 1536 x 3 there, for a layer of 1536 x 1536; "
            r"the model's is 48 x 48",
        ),
        (GOOD | tensors_of("blocks.7.attn1.to_q", (3, 48), (48, 3)), "another model .* has no such block"),
        (
            tensors_of("blocks_7_self_attn_q", (3, 48), (48, 3), "lora_unet_"),
            "another model .* has no such block",
        ),
        (tensors_of(Q, (3, 48), (48, 4)), "the halves of blocks.0.attn1.to_q have ranks 3 and 4"),
        (dict(list(GOOD.items())[:1]), r"not its other half \(lora_B\)"),
        (GOOD | {f"transformer.{Q}.lora_B.bias": torch.empty(7)}, "has 7 values, not 48"),
        (GOOD | {f"transformer.{Q}.alpha": torch.empty(2)}, "must be one number"),
        (GOOD | {f"{Q}.lora_A.weight": torch.empty(3, 48)}, "it has blocks.0.attn1.to_q twice"),
        (GOOD | {f"transformer.{Q}.lora_magnitude_vector": torch.empty(48)}, "it is a DoRA"),
        ({"diffusion_model.blocks.0.self_attn.q.lokr_w1": torch.empty(2)}, "it is a LoKr"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.empty(3, 48)}, r"PEFT's own format .*save_lora_weights"),
    ],
)
def test_what_cannot_be_applied_is_refused(tensors, message):
    with pytest.raises(InputError, match=message):
        lay_out("x.safetensors", header(tensors), SHAPES, model="m")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[1]", "is not a JSON object"),
        ('{"transformer.lora_alpha": "x"}', "alpha 'x' in its metadata is not a number"),
        ('{"transformer.lora_alpha": 1' + "0" * 400 + "}", r"alpha 10*\.\.\.0* in its metadata is not a number"),
        ('{"transformer.lora_alpha": 1e39}', "alpha 1e.39 in its metadata is not a number that float32 holds"),
        ('{"transformer.lora_alpha": NaN}', "alpha nan in its metadata is not a number"),
        ('{"transformer.lora_alpha": [1]}', r"alpha \[1\] in its metadata is not a number"),
        ('{"transformer.alpha_pattern": [1]}', r"alpha_pattern \[1\] in its metadata is not a JSON object"),
        ('{"transformer.alpha_pattern": "abc"}', "alpha_pattern 'abc' in its metadata is not a JSON object"),
        ('{"transformer.alpha_pattern": 5}', "alpha_pattern 5 in its metadata is not a JSON object"),
        ('{"transformer.alpha_pattern": {".*attn2.*": 2}}', "is for a pattern"),
        ('{"transformer.use_dora": true}', "it is a DoRA"),
        ('{"use_dora": true}', "it is a DoRA"),
    ],
)
def test_metadata_that_is_not_understood_is_refused(document, message):
    with pytest.raises(InputError, match=message):
        lay_out("x", header(GOOD, {"lora_adapter_metadata": document}), SHAPES, model="m")


@pytest.mark.parametrize("alpha", [torch.tensor(2 + 1j), torch.tensor(True)])
def test_an_alpha_that_is_no_real_number_is_refused(tmp_path, alpha):
    tensors = {name: torch.ones(tensor.shape) for name, tensor in GOOD.items()}
    with pytest.raises(InputError, match=r"to_q\.alpha has dtype (C64|BOOL) .*F32.* would work"):
        read(tmp_path, {**tensors, f"transformer.{Q}.alpha": alpha})
    assert read(tmp_path, {**tensors, f"transformer.{Q}.alpha": torch.tensor(6)}).layers[Q].scale == 2


def test_what_is_left_is_said():
    """Other parts of a LoRA for the same model (here a text encoder's, and differences of norms) are common."""
    extra = {f"{name}.weight": torch.empty(4) for name in ("text_encoder.a.lora_A", "blocks.0.norm3.diff", "c", "d")}
    layout = lay_out("x", header(GOOD | extra), SHAPES, model="m")
    assert list(layout.layers) == [Q]
    [warning] = layout.warnings("x.safetensors")
    assert warning.startswith("LoRA x.safetensors: 4 of its tensors fit no layer") and warning.endswith("and 1 more")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    tensors = {name: torch.full(tensor.shape, torch.nan) for name, tensor in GOOD.items()}
    with pytest.raises(InputError, match="not finite"):
        read(tmp_path, tensors)


def test_another_shape_of_a_checkpoint_without_weights(tmp_path):
    """As the farm does it: a LoRA for the 14B model given to the 1.3B one, from two headers."""
    big = linear_shapes(model(num_attention_heads=4))
    path = tmp_path / "big.safetensors"
    save_lora(path, halves(big))
    with pytest.raises(InputError, match=r"for a layer of 96 x 96; the model's is 48 x 48"):
        read_lora(str(path), SHAPES, model="m")
