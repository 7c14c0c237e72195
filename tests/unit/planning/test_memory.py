"""The memory model against what is really allocated: full-size models on the `meta` device, small ones on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from render_farm import RenderJob
from render_farm.engine import load_engine
from render_farm.engine.denoising.window import AttentionPolicy, render_window
from render_farm.engine.transformer.attention import BlockCausalAttention
from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.engine.weights.part_sizes import read_sizes
from render_farm.engine.weights.vae_convolution import copy_once
from render_farm.memory_mode import MemoryMode
from render_farm.models import PRESETS
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.groups import GroupShape
from render_farm.planning.memory import (
    FILMS_AT_ONCE,
    activation_bytes,
    cache_bytes,
    estimate_memory,
    usable_bytes,
    weight_bytes,
    window_cache_bytes,
)
from render_farm.planning.memory_modes import device_bytes
from render_farm.planning.model_sizes import (
    ImageEncoderSizes,
    TextEncoderSizes,
    TransformerSizes,
    VaeSizes,
    sizes_of_preset,
)
from render_farm.planning.vae_memory import decoding_memory, encoding_memory
from render_farm.scheduling.worker_index import MOST_FINISHING
from render_farm.tiny import MODEL_DIR
from tests.helpers.live_memory import LiveMemory

GB = 1e9
PUBLISHED = [name for name, preset in PRESETS.items() if preset.hub_id]


class ShapeOnlyAttention:
    """The kernel's result without the kernel: on `meta`, torch has only the formula that writes out all scores."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None) -> Tensor:
        return torch.empty_like(query)


def meta_transformer(name: str, dtype: torch.dtype, num_layers: int | None = None) -> FrameTransformer:
    config = PRESETS[name].transformer_config()
    config["num_layers"] = num_layers or config["num_layers"]
    with torch.device("meta"):
        model = SkyReelsV2Transformer3DModel(**{k: v for k, v in config.items() if not k.startswith("_")})
    kept = model._keep_in_fp32_modules
    for key, parameter in model.named_parameters():
        if not any(part in kept for part in key.split(".")):
            parameter.data = parameter.data.to(dtype)
    return FrameTransformer.wrap(model.eval())


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_of_the_published_checkpoints(name: str) -> None:
    model = meta_transformer(name, torch.bfloat16)
    sizes = sizes_of_preset(PRESETS[name]).transformer
    assert sizes.num_parameters == sum(p.numel() for p in model.parameters()) == PRESETS[name].num_parameters
    allocated = sum(p.numel() * p.element_size() for p in model.parameters())
    assert weight_bytes(sizes, 2) == allocated
    assert weight_bytes(sizes, 4) == 4 * sizes.num_parameters


def num_parameters(make: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


def test_weights_of_the_encoders_and_the_vae() -> None:
    assert VaeSizes().num_parameters == num_parameters(AutoencoderKLWan) == 126_892_531
    small = {"base_dim": 8, "dim_mult": [1, 2, 4, 5], "num_res_blocks": 1}
    assert VaeSizes.from_config(small).num_parameters == num_parameters(lambda: AutoencoderKLWan(**small))
    umt5 = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    assert TextEncoderSizes().num_parameters == num_parameters(lambda: UMT5EncoderModel(umt5)) == 5_680_910_336
    assert TextEncoderSizes.from_config(umt5.to_dict()) == TextEncoderSizes()
    clip = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14
    )
    assert ImageEncoderSizes().num_parameters == num_parameters(lambda: CLIPVisionModel(clip)) == 630_766_080
    assert ImageEncoderSizes.from_config(clip.to_dict()) == ImageEncoderSizes()


@pytest.mark.slow
def test_sizes_of_a_folder_are_those_of_its_weights() -> None:
    sizes, engine = read_sizes(MODEL_DIR), load_engine("tiny", device="cpu")
    assert sizes.transformer.num_parameters == sum(p.numel() for p in engine.transformer.parameters())
    assert sizes.vae.num_parameters == sum(p.numel() for p in engine.vae.parameters())
    engine.encode_prompts(["x"])
    assert engine._text_encoder is not None
    assert sizes.text_encoder.num_parameters == sum(p.numel() for p in engine._text_encoder.parameters())
    assert sizes.image_encoder is None


# --- denoising ------------------------------------------------------------------------------------

SYNCHRONOUS: dict[str, Any] = {"num_frames": 97}
BLOCKS = {"num_frames": 97, "causal_block_size": 5, "ar_step": 1}
SECOND = {"num_frames": 177, "base_num_frames": 97, "overlap_history": 17, "causal_block_size": 5}
FILMS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "1.3B": ("df-1.3b-540p", "bfloat16", 0, SYNCHRONOUS),
    "1.3B unguided": ("df-1.3b-540p", "bfloat16", 0, SYNCHRONOUS | {"guidance_scale": 1.0}),
    "1.3B asynchronous": ("df-1.3b-540p", "bfloat16", 0, BLOCKS),
    "14B float32 asynchronous": ("df-14b-540p", "float32", 0, BLOCKS),
    "14B 720P, second window": ("df-14b-720p", "bfloat16", 1, SECOND),
    "14B 720P, second window, noised prefix": ("df-14b-720p", "bfloat16", 1, SECOND | {"addnoise_condition": 20.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FILMS)
def test_denoising_at_full_size(case: str) -> None:
    """Few layers: all have the same shapes, and only the prompts' keys and the cache are one a layer."""
    name, dtype, segment, parameters = FILMS[case]
    transformer = meta_transformer(name, getattr(torch, dtype), num_layers=3)
    job = RenderJob(job_id="a", prompt="x", num_inference_steps=2, **parameters)
    plan = plan_film(job, spec_of_preset(name, dtype=dtype))
    window = plan.windows[segment]
    size = (window.num_history_frames, plan.latent_height, plan.latent_width)
    with LiveMemory() as memory:
        render_window(
            transformer,
            plan,
            segment,
            history=torch.empty((1, 16, *size), device="meta") if window.num_history_frames else None,
            embeddings={text: torch.empty((512, 4096), dtype=torch.bfloat16) for text in plan.texts},
            attention=AttentionPolicy(
                own=BlockCausalAttention(ShapeOnlyAttention()), cross=ShapeOnlyAttention(), cache_budget_bytes=1 << 62
            ),
        )
    sizes = TransformerSizes.from_config(transformer.config)
    estimate = activation_bytes(plan, segment, sizes) + window_cache_bytes(plan, segment, sizes)
    # Where nothing is compiled a region's arguments can be freed while it runs: then it takes less.
    assert 0.99 < estimate / memory.peak_bytes < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{}, {"causal_block_size": 5}])
def test_denoising_on_the_cpu(parameters: dict[str, Any]) -> None:
    engine = load_engine("tiny", device="cpu", dtype="bfloat16")  # in float32 the CPU shortens prompts' keys
    job = RenderJob(
        job_id="a", prompt="a red circle", num_frames=17, height=64, width=64, num_inference_steps=1, **parameters
    )
    plan, embeddings = engine.plan(job), engine.encode_prompts(["a red circle", ""])
    _ = engine.transformer, engine.attention
    with LiveMemory() as memory:
        engine.render_segment(plan, 0, history=None, embeddings=embeddings)
    sizes = read_sizes(MODEL_DIR).transformer
    estimate = activation_bytes(plan, 0, sizes) + window_cache_bytes(plan, 0, sizes)
    assert 0.9 < estimate / memory.peak_bytes < 1.25


def test_the_cache_is_that_of_the_design() -> None:
    one = {"num_tokens": 51_000, "num_branches": 1, "bytes_per_element": 2, "head_dim": 128}
    assert cache_bytes(num_layers=30, num_heads=12, **one) == pytest.approx(9.4 * GB, rel=0.01)
    assert cache_bytes(num_layers=40, num_heads=40, **one) == pytest.approx(42 * GB, rel=0.01)


# --- the VAE --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "known"), [(544, 960, 4.94), (720, 1280, 8.72)])
def test_decoding_at_full_size(height: int, width: int, known: float) -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan().eval()
    copy_once(vae)
    features: list[Any] = [None] * sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())
    with torch.no_grad(), LiveMemory() as memory:
        for index in range(3):
            latent = vae.post_quant_conv(torch.empty((1, 16, 1, height // 8, width // 8), device="meta"))
            vae.decoder(latent, feat_cache=features, feat_idx=[0], first_chunk=index == 0)
    estimate = decoding_memory(VaeSizes(), height=height, width=width)
    assert estimate.cache_bytes == sum(kept.nbytes for kept in features if isinstance(kept, Tensor))
    assert estimate.cache_bytes == pytest.approx(known * GB, rel=0.01)
    print(f"{width}x{height}: peak {memory.peak_bytes / GB:.3f} GB, expected {estimate.total_bytes / GB:.3f}")
    assert 0.99 < estimate.total_bytes / memory.peak_bytes < 1.05


@pytest.mark.slow
def test_decoding_on_the_cpu() -> None:
    engine = load_engine("tiny", device="cpu")
    plan = engine.plan(RenderJob(job_id="a", prompt="x", num_frames=17, height=64, width=96))
    decoder = engine.decoder(plan)
    with LiveMemory() as memory:
        for _ in decoder.push(torch.zeros((1, 16, 5, 8, 12))):
            pass
    estimate = decoding_memory(read_sizes(MODEL_DIR).vae, height=64, width=96).total_bytes
    assert 0.9 < estimate / memory.peak_bytes < 1.1


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "num_frames"), [(1, 1), (2, 1), (1, 17), (1, 97)])
def test_encoding_at_full_size(batch: int, num_frames: int) -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan().eval()
    copy_once(vae)
    with torch.no_grad(), LiveMemory() as memory:
        vae.encode(torch.empty((batch, 3, num_frames, 544, 960), device="meta"))
    estimate = encoding_memory(VaeSizes(), height=544, width=960, num_frames=num_frames, batch=batch)
    assert 0.95 < estimate.total_bytes / memory.peak_bytes < 1.35


@pytest.mark.parametrize("num_images", [1, 2])
def test_the_image_encoder_at_full_size(num_images: int) -> None:
    sizes = ImageEncoderSizes()
    config = CLIPVisionConfig(
        hidden_size=sizes.dim,
        intermediate_size=sizes.ffn_dim,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=16,
        patch_size=sizes.patch,
    )
    with torch.device("meta"):
        encoder = CLIPVisionModel(config).eval()
    pixels = torch.empty((num_images, 3, sizes.image_size, sizes.image_size), device="meta")
    with torch.no_grad(), LiveMemory() as memory:
        encoder(pixel_values=pixels, output_hidden_states=True)
    assert num_images * sizes.num_states * 4 == pytest.approx(memory.peak_bytes, rel=0.02)


# --- a job ----------------------------------------------------------------------------------------


def estimate_of(name: str, *, shape: GroupShape = GroupShape(), **parameters: Any):
    plan = plan_film(RenderJob(job_id="a", prompt="x", **parameters), spec_of_preset(name))
    return estimate_memory(plan, sizes_of_preset(PRESETS[name]), shape=shape)


def test_a_job_adds_up() -> None:
    small, large = estimate_of("df-1.3b-540p"), estimate_of("df-14b-720p")
    assert small.cache_bytes == 0
    assert small.full_bytes == small.least_bytes < large.least_bytes
    parts = large.transformer_bytes + large.vae_bytes + large.activation_bytes + large.decoding_bytes
    assert large.least_bytes == parts + large.runtime_bytes
    assert large.text_stage_bytes == large.text_encoder_bytes + large.runtime_bytes
    blocks = estimate_of("df-14b-540p", causal_block_size=5, ar_step=5)
    assert blocks.full_bytes == blocks.least_bytes + blocks.cache_bytes
    assert estimate_of("df-14b-540p", causal_block_size=5, ar_step=5, num_frames=257).cache_bytes == blocks.cache_bytes
    image = estimate_of("df-1.3b-540p", image="a.png")
    assert image.encoding_bytes > 0
    assert image.image_encoder_bytes == 0
    both = estimate_of("flf2v-1.3b-540p", image="a.png", last_image="b.png")
    assert both.image_encoder_bytes > 2 * ImageEncoderSizes().num_parameters
    assert both.encoding_bytes > image.encoding_bytes, "a whole video"


def test_each_film_that_is_being_decoded_has_a_place_for_its_features_in_the_hosts_memory() -> None:
    assert MOST_FINISHING + 1 <= FILMS_AT_ONCE, "and the one that is rendered"
    cache = decoding_memory(VaeSizes(), height=720, width=1280).cache_bytes
    assert estimate_of("df-14b-720p").parked_bytes == FILMS_AT_ONCE * cache


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_checkpoint_is_resident_on_a_gpu_of_80_gb_at_its_own_size(name: str) -> None:
    preset = PRESETS[name]
    inputs = {"image": "a.png"} if "t2v" not in preset.tasks else {}
    inputs |= {"last_image": "b.png"} if preset.tasks == ("flf2v",) else {}
    plan = plan_film(RenderJob(job_id="a", prompt="x", **inputs), spec_of_preset(name))
    assert device_bytes(plan, sizes_of_preset(preset), MemoryMode()) <= usable_bytes(84_900_000_000)


def test_memory_does_not_grow_with_the_film() -> None:
    short = estimate_of("df-14b-540p", num_frames=177)
    assert estimate_of("df-14b-540p", num_frames=1457) == short


def test_a_group_shares_all_but_the_weights() -> None:
    alone = estimate_of("df-14b-720p", num_frames=97, base_num_frames=97, causal_block_size=5, ar_step=5)
    shared = estimate_of(
        "df-14b-720p",
        num_frames=97,
        base_num_frames=97,
        causal_block_size=5,
        ar_step=5,
        shape=GroupShape(cfg=2, ulysses=4),
    )
    assert shared.transformer_bytes == alone.transformer_bytes
    assert shared.cache_bytes == pytest.approx(alone.cache_bytes / 8, rel=0.02)
    assert shared.activation_bytes < alone.activation_bytes / 3
