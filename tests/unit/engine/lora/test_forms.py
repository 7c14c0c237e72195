"""LoRA files as trainers and converters write them: understood with their scales, or refused by name."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from safetensors.torch import save_file

from render_farm.engine.lora.keys import original_name
from render_farm.engine.lora.linear_layers import linear_shapes
from render_farm.engine.lora.weights import Lora, read_lora
from render_farm.errors import InputError
from render_farm.media.limits import InputLimits
from render_farm.media.weights import read_weights_header

with torch.device("meta"):
    SHAPES = linear_shapes(
        SkyReelsV2Transformer3DModel(
            num_attention_heads=2, attention_head_dim=24, ffn_dim=80, num_layers=2, text_dim=32, freq_dim=64
        )
    )
LAYER = "blocks.1.attn1.to_q"
OUT, IN = SHAPES[LAYER]
DOWN = torch.randn(3, IN, generator=torch.Generator().manual_seed(1))
UP = torch.randn(OUT, 3, generator=torch.Generator().manual_seed(2))


def read(tmp_path, tensors, metadata=None) -> Lora:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "a.safetensors", metadata)
    return read_lora(str(tmp_path / "a.safetensors"), SHAPES, model="m")


def added(lora: Lora, layer: str = LAYER) -> torch.Tensor:
    """What is added to the layer's weight."""
    part = lora.layers[layer]
    return part.scale * part.up.float() @ part.down.float()


@pytest.mark.parametrize(
    "name",
    [
        "pipe.dit.blocks.1.self_attn.q.lora_{}.default.weight",
        "lora_transformer_blocks_1_attn1_to_q.lora_{}.weight",
        "transformer.base_model.model.blocks.1.attn1.to_q.lora_{}.weight",
        "diffusion_model.blocks.1.self_attn.q.lora_{}.my-adapter.v1.2.weight",
        "blocks.1.attn1.to_q.lora_{}.default_0.weight",
        "transformer.transformer.blocks.1.attn1.to_q.lora_{}.weight",
        "diffusion_model.model.blocks.1.self_attn.q.lora_{}.weight",
        "module.blocks.1.self_attn.q.lora_{}.default.weight",
        "unet.blocks.1.attn1.to_q.lora_{}.weight",
        "dit.blocks.1.self_attn.q.lora_{}.weight",
        "lycoris_blocks_1_self_attn_q.lora_{}.weight",
        "lora_unet__blocks_1_self_attn_q.lora_{}.weight",
        "transformer._orig_mod.blocks.1.attn1.to_q.lora_{}.weight",
        "blocks.1._checkpoint_wrapped_module.attn1.to_q.lora_{}.default.weight",
        "_fsdp_wrapped_module.blocks.1._fsdp_wrapped_module.self_attn.q.lora_{}.default.weight",
    ],
)
def test_names_of_the_wild(tmp_path, name):
    lora = read(tmp_path, {name.format("A"): DOWN, name.format("B"): UP})
    assert torch.equal(added(lora), UP @ DOWN) and not lora.warnings


@pytest.mark.parametrize(
    ("prefix", "layer"),
    [
        ("net.trunk.", "blocks.1.attn1.to_q"),
        ("transformer_2.", "blocks.1.attn1.to_q"),
        ("text_encoders.umt5xxl.", "blocks.1.self_attn.q"),
        ("lora_dit_", "blocks_1_self_attn_q"),
    ],
)
def test_an_unknown_prefix_is_named(tmp_path, prefix, layer):
    name = f"{prefix}{layer}.lora_{{}}.weight"
    with pytest.raises(InputError, match=re.escape(f"its names begin with {prefix!r}, which is not known")):
        read(tmp_path, {name.format("A"): DOWN, name.format("B"): UP})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_numbers_of_any_float_are_read(tmp_path, dtype):
    name = "diffusion_model.blocks.1.self_attn.q.lora_{}.weight"
    tensors = {name.format("down"): DOWN.to(getattr(torch, dtype)), name.format("up"): UP.to(getattr(torch, dtype))}
    expected = UP @ DOWN
    assert (added(read(tmp_path, tensors)) - expected).abs().max() < 0.35 * expected.abs().max()


@pytest.mark.parametrize(
    "part",
    [
        "dora_scale",
        "lora_magnitude_vector.weight",
        "scalar",
        "a1.weight",
        "on_input",
        "vera_lambda_b",
        "w_norm",
        "set_weight",
        "weight",
        "modules_to_save.weight",
        "lora_down.comfy_quant",
        "lora_down.scale_input",
        "lora_A.bias",
        "lora_up.bias",
    ],
)
def test_another_way_to_change_the_same_layer_is_refused(tmp_path, part):
    name = "diffusion_model.blocks.1.self_attn.q"
    tensors = {f"{name}.lora_down.weight": DOWN, f"{name}.lora_up.weight": UP, f"{name}.{part}": torch.ones(2)}
    with pytest.raises(InputError, match=r"a part alone would be wrong|changes what is applied"):
        read(tmp_path, tensors)


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
def test_scaled_fp8_is_multiplied_out(tmp_path, scale):
    tensors = {}
    for half, tensor in (("down", DOWN), ("up", UP)):
        factor = tensor.abs().max() / 448  # the largest number of e4m3
        tensors[f"diffusion_model.blocks.1.self_attn.q.lora_{half}.weight"] = (tensor / factor).to(torch.float8_e4m3fn)
        tensors[f"diffusion_model.blocks.1.self_attn.q.lora_{half}.{scale}"] = factor
    found, expected = added(read(tmp_path, tensors)), UP @ DOWN
    assert (found - expected).abs().max() < 0.2 * expected.abs().max()  # two roundings to 3 bits of mantissa
    assert abs(found.norm() / expected.norm() - 1) < 0.05


def test_what_changes_an_applied_tensor_and_is_not_understood_is_refused(tmp_path):
    name = f"transformer.{LAYER}"
    tensors = {f"{name}.lora_A.weight": DOWN, f"{name}.lora_B.weight": UP}
    with pytest.raises(InputError, match="zero_point, which changes what is applied"):
        read(tmp_path, {**tensors, f"{name}.lora_A.zero_point": torch.ones(1)})


def test_alpha_in_the_metadata_of_kohya(tmp_path):
    name = "lora_unet_blocks_1_self_attn_q"
    tensors = {f"{name}.lora_down.weight": DOWN, f"{name}.lora_up.weight": UP}
    lora = read(tmp_path, tensors, {"ss_network_alpha": "1.5", "ss_network_dim": "3"})
    assert torch.allclose(added(lora), 0.5 * UP @ DOWN)
    own = read(tmp_path, {**tensors, f"{name}.alpha": torch.tensor(6.0)}, {"ss_network_alpha": "1.5"})
    assert torch.allclose(added(own), 2 * UP @ DOWN)
    for nothing in ("0", "None", ""):  # the script then takes the rank
        assert torch.allclose(added(read(tmp_path, tensors, {"ss_network_alpha": nothing})), UP @ DOWN)
    with pytest.raises(InputError, match="ss_network_alpha 'much'"):
        read(tmp_path, tensors, {"ss_network_alpha": "much"})


@pytest.mark.parametrize("ones", [(1, 1), (1, 1, 1)])
def test_convolutions_of_one_pixel_are_matrices(tmp_path, ones):
    name = "lora_unet_blocks_1_self_attn_q"
    tensors = {f"{name}.lora_down.weight": DOWN.view(3, IN, *ones), f"{name}.lora_up.weight": UP.view(OUT, 3, *ones)}
    assert torch.equal(added(read(tmp_path, tensors)), UP @ DOWN)


@pytest.mark.parametrize("layer", ["proj_out", "blocks.0.ffn.net.0.proj", "blocks.0.ffn.net.2"])
def test_a_whole_difference_is_added(tmp_path, layer):
    out_features, in_features = SHAPES[layer]
    difference, bias = torch.randn(out_features, in_features), torch.randn(out_features)
    name = f"diffusion_model.{original_name(layer)}"
    lora = read(tmp_path, {f"{name}.diff": difference, f"{name}.diff_b": bias})
    part = lora.layers[layer]
    assert torch.equal(added(lora, layer), difference) and torch.equal(part.bias, bias)
    assert part.down.shape[0] == min(out_features, in_features)


def test_the_difference_of_the_head_is_that_of_diffusers(tmp_path):
    out_features, in_features = SHAPES["proj_out"]
    tensors = {
        "diffusion_model.head.head.diff": torch.randn(out_features, in_features),
        "diffusion_model.head.head.diff_b": torch.randn(out_features),
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight": DOWN,
        "diffusion_model.blocks.0.self_attn.q.lora_up.weight": UP,
    }
    theirs = _convert_non_diffusers_wan_lora_to_diffusers(dict(tensors))
    lora = read(tmp_path, tensors)
    expected = theirs["transformer.proj_out.lora_B.weight"] @ theirs["transformer.proj_out.lora_A.weight"]
    assert torch.equal(added(lora, "proj_out"), expected)
    assert torch.equal(lora.layers["proj_out"].bias, theirs["transformer.proj_out.lora_B.bias"])


def test_a_difference_beside_a_low_rank_adds_up(tmp_path):
    name, difference = "diffusion_model.blocks.1.self_attn.q", torch.randn(OUT, IN)
    tensors = {f"{name}.lora_down.weight": DOWN, f"{name}.lora_up.weight": UP, f"{name}.alpha": torch.tensor(6.0)}
    lora = read(tmp_path, {**tensors, f"{name}.diff": difference})
    assert torch.allclose(added(lora), 2 * UP @ DOWN + difference, atol=1e-5)


def test_a_bias_alone_is_added(tmp_path):
    part = read(tmp_path, {"diffusion_model.blocks.1.self_attn.q.diff_b": torch.ones(OUT)}).layers[LAYER]
    assert torch.equal(part.bias, torch.ones(OUT)) and part.down.shape == (0, IN)


def test_a_large_header_is_refused_before_it_is_kept(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"note": "x" * 5000})
    assert read_weights_header(str(tmp_path / "a.safetensors"))
    with pytest.raises(InputError, match=r"more than the 4,096 allowed.*max_lora_header_bytes"):
        read_weights_header(str(tmp_path / "a.safetensors"), InputLimits(max_lora_header_bytes=4096))
