"""Training: fast paths equal diffusers, a few steps learn, a resumed run ends where an uninterrupted one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file

from render_farm.tiny.build import (
    Architecture,
    build_pipeline,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    build_vae,
)
from render_farm.tiny.designed_vae import design_encoder, linear_latents, start_decoder
from render_farm.tiny.export import export_checkpoint
from render_farm.tiny.fast_transformer import make_text, predict_flow, start_transformer
from render_farm.tiny.fast_vae import decode_clips
from render_farm.tiny.forcing import ForcingConfig, draw_batch, draw_levels
from render_farm.tiny.latents import LatentClip, read_latents, write_latents
from render_farm.tiny.loop import LoopConfig, Share, learning_rate
from render_farm.tiny.train_lora import DISTILLED_LEVELS, LoraConfig, distilled_loss, train_lora
from render_farm.tiny.train_transformer import read_denoiser, train_transformer
from render_farm.tiny.train_vae import VaeConfig, draw_clips, train_vae

pytestmark = pytest.mark.slow

SMALL = Architecture(
    transformer={
        "num_attention_heads": 4,
        "attention_head_dim": 12,
        "ffn_dim": 48,
        "num_layers": 1,
        "in_channels": 16,
        "out_channels": 16,
        "freq_dim": 32,
        "patch_size": (1, 2, 2),
        "inject_sample_info": True,
    },
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[LatentClip]:
    folder = tmp_path_factory.mktemp("latents")
    write_latents(folder, {"long": 64, "change": 0}, seed=5, share=Share())
    return read_latents(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    build_pipeline(SMALL).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_one_pass_equals_the_streaming_decoder() -> None:
    torch.manual_seed(0)
    vae = build_vae(Architecture())
    pixels = draw_clips(0, 0, range(2), 9)
    latents = vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(decode_clips(vae, latents).clamp(-1, 1), vae.decode(latents).sample, atol=5e-5, rtol=0)
    image = latents[:, :, :1]
    torch.testing.assert_close(decode_clips(vae, image).clamp(-1, 1), vae.decode(image).sample, atol=5e-5, rtol=0)


@torch.no_grad()
def test_the_designed_encoder_is_the_linear_map() -> None:
    torch.manual_seed(0)
    vae = build_vae(Architecture())
    design_encoder(vae)
    start_decoder(vae)
    pixels = draw_clips(0, 1, range(2), 17)
    latents = vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(latents, linear_latents(pixels), atol=1e-3, rtol=0)
    error = ((vae.decode(latents).sample - pixels) / 2).square().mean()
    assert -10 * torch.log10(error) > 18, "the decoder starts as a blur, not as noise"


@torch.no_grad()
@pytest.mark.parametrize("block_size", [1, 5])
def test_the_fast_transformer_equals_diffusers(block_size: int) -> None:
    torch.manual_seed(0)
    model = build_transformer(Architecture())
    start_transformer(model)
    torch.nn.init.normal_(model.proj_out.weight, std=0.05)
    encoder, tokenizer = build_text_encoder(Architecture()), build_tokenizer()
    tokens = tokenizer(["a red circle moving right"], padding="max_length", max_length=12, return_tensors="pt")
    states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    latents, levels = torch.randn(1, 16, 10, 8, 8), torch.randint(0, 1000, (1, 10)).float()
    ours = predict_flow(model, latents, levels, make_text(states, tokens.attention_mask), torch.tensor([1]), block_size)
    length = int(tokens.attention_mask.sum())
    padded = torch.zeros(1, 512, states.shape[-1])
    padded[:, :length] = states[:, :length]
    model._set_ar_attention(block_size)
    theirs = model(latents, levels.long(), padded, enable_diffusion_forcing=True, fps=[1], return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_batches_are_reproducible_and_split_over_processes(clips: list[LatentClip]) -> None:
    config = ForcingConfig(latent_frames_per_step=20, lengths=((1.0, ((5, 5),)),))
    whole = draw_batch(clips, config, 3, 0.0, Share())
    parts = [draw_batch(clips, config, 3, 0.0, Share(rank=rank, count=2)) for rank in range(2)]
    assert torch.equal(whole.windows[0::2], parts[0].windows)
    assert torch.equal(whole.levels[1::2], parts[1].levels)
    assert whole.captions[0] == parts[0].captions[0]


def test_a_batch_may_hold_some_frames_of_longer_windows(clips: list[LatentClip]) -> None:
    config = ForcingConfig(latent_frames_per_step=20, lengths=((1.0, ((25, 5),)),))
    batch = draw_batch(clips, config, 3, 0.0, Share())
    places = batch.places.tolist()
    assert places == sorted(set(places))
    assert (places[0], len(places)) == (0, 5)
    assert 5 < places[-1] < 25
    assert batch.windows.shape == (4, 16, 5, 8, 8)
    assert batch.levels.shape == batch.weights.shape == (4, 5)


@torch.no_grad()
def test_frames_of_a_longer_window_know_how_far_apart_they_are() -> None:
    torch.manual_seed(0)
    model = build_transformer(SMALL)
    torch.nn.init.normal_(model.proj_out.weight, std=0.05)
    text = make_text(torch.randn(1, 4, 64), torch.ones(1, 4, dtype=torch.long))
    latents, levels = torch.randn(1, 16, 3, 8, 8), torch.full((1, 3), 500.0)

    def at(*places: int) -> torch.Tensor:
        return predict_flow(model, latents, levels, text, torch.tensor([1]), 1, torch.tensor(places))

    torch.testing.assert_close(at(0, 1, 2), predict_flow(model, latents, levels, text, torch.tensor([1]), 1))
    torch.testing.assert_close(at(0, 4, 9), at(3, 7, 12), atol=1e-5, rtol=0)
    assert not torch.allclose(at(0, 4, 9), at(0, 1, 2), atol=1e-4)


def test_noise_levels_never_fall_over_causal_blocks() -> None:
    for seed in range(50):
        levels = draw_levels(np.random.default_rng(seed), frames=20, block_size=5, history=5)
        assert (levels[:5] <= 0.06).all()
        assert (np.diff(levels[5:]) >= 0).all()
        assert ((levels >= 0) & (levels <= 1)).all()


def test_few_steps_are_learnt_at_the_levels_of_their_sampler() -> None:
    rows = [draw_levels(np.random.default_rng(seed), 10, 1, 5, DISTILLED_LEVELS) for seed in range(50)]
    assert {level for row in rows for level in row[5:]} == set(DISTILLED_LEVELS)
    assert all((row[:5] == 0).all() and len(set(row[5:])) == 1 for row in rows)


@torch.no_grad()
def test_a_teacher_of_one_step_teaches_what_the_student_already_does(clips: list[LatentClip], checkpoint: Path) -> None:
    denoiser = read_denoiser(checkpoint)
    torch.nn.init.normal_(denoiser.transformer.proj_out.weight, std=0.05)
    config = ForcingConfig(latent_frames_per_step=20, lengths=((1.0, ((10, 10),)),), levels=DISTILLED_LEVELS)
    batch = draw_batch(clips, config, 0, 0.0, Share())
    noise = torch.randn(batch.windows.shape)

    def loss(**settings: float) -> float:
        return float(distilled_loss(denoiser, denoiser, batch, noise, LoraConfig(**settings))["loss"])

    assert loss(teacher_steps=1, guidance=1.0) == 0
    assert loss(teacher_steps=4, guidance=1.0) > 0
    assert loss(teacher_steps=1, guidance=3.0) > 0


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = LoopConfig(steps=100, peak_lr=1.0, warmup_steps=10)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0, abs=0.05)
    assert rates[-1] < 0.05


def run_transformer(clips: list[LatentClip], folder: Path, steps: int, total: int = 30) -> dict[str, torch.Tensor]:
    config = ForcingConfig(latent_frames_per_step=20, lengths=((1.1, ((5, 5),)),))
    loop = LoopConfig(steps=steps, peak_lr=3e-3, warmup_steps=2, log_every=10, schedule_steps=total, muon=True)
    return train_transformer(SMALL, config, loop, clips, folder, torch.device("cpu"), Share()).state_dict()


def test_a_resumed_run_ends_with_the_same_weights(clips: list[LatentClip], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = run_transformer(clips, tmp_path / "whole", 8)
    run_transformer(clips, tmp_path / "parts", 5)
    parts = run_transformer(clips, tmp_path / "parts", 8)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_few_steps_lower_the_loss(clips: list[LatentClip], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run_transformer(clips, tmp_path, 30)
    losses = [float(line.split("loss ")[1].split()[0]) for line in caplog.messages if " loss " in line]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_run_may_start_from_a_checkpoint(clips: list[LatentClip], checkpoint: Path, tmp_path: Path) -> None:
    loop, one = LoopConfig(steps=0, peak_lr=1e-3), torch.device("cpu")
    vae = train_vae(SMALL, VaeConfig(), loop, tmp_path, one, Share(), checkpoint)
    denoiser = train_transformer(SMALL, ForcingConfig(), loop, clips, tmp_path, one, Share(), checkpoint)
    older = AutoencoderKLWan.from_pretrained(checkpoint / "vae")
    pixels = draw_clips(0, 1, range(1), 5)
    assert torch.equal(vae.decoder.conv_out.weight, older.decoder.conv_out.weight)
    torch.testing.assert_close(vae.encode(pixels).latent_dist.mode(), linear_latents(pixels), atol=1e-3, rtol=0)
    text = read_denoiser(checkpoint).text_encoder.state_dict()
    assert all(torch.equal(tensor, text[name]) for name, tensor in denoiser.text_encoder.state_dict().items())


def test_a_run_exports_a_checkpoint(tmp_path: Path) -> None:
    config = VaeConfig(clip_frames=((1, 5),), late_clip_frames=((1, 5),))
    loop = LoopConfig(steps=2, peak_lr=1e-3)
    vae = train_vae(Architecture(), config, loop, tmp_path / "run", torch.device("cpu"), Share())
    assert not vae.training
    export_checkpoint(tmp_path / "run", tmp_path / "model")
    assert (tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.parametrize("teacher_steps", [0, 2])
def test_a_lora_of_the_trained_transformer_is_written_in_diffusers_format(
    clips: list[LatentClip], checkpoint: Path, tmp_path: Path, teacher_steps: int
) -> None:
    config = ForcingConfig(latent_frames_per_step=20, lengths=((1.1, ((5, 5),)),))
    loop = LoopConfig(steps=2, peak_lr=1e-2, warmup_steps=1)
    target = tmp_path / "lora.safetensors"
    lora = LoraConfig(rank=2, teacher_steps=teacher_steps)
    train_lora(checkpoint, lora, config, loop, clips, tmp_path, target, torch.device("cpu"), Share())
    tensors = load_file(target)
    assert tensors["transformer.blocks.0.attn1.to_q.lora_A.weight"].shape == (2, 48)
    assert tensors["transformer.blocks.0.ffn.net.2.lora_B.weight"].shape == (48, 2)
    assert len(tensors) == 2 * 10
    assert all(tensor.any() for tensor in tensors.values())
