"""Checkpoints without diffusion forcing: their films equal those of diffusers' `SkyReelsV2Pipeline` and
`SkyReelsV2ImageToVideoPipeline`, for which the first and last image are further input channels and tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SkyReelsV2ImageToVideoPipeline, SkyReelsV2Pipeline
from PIL import Image

from render_farm import RenderJob
from render_farm.engine import Engine, Inputs, load_engine
from render_farm.errors import InputError, InvalidJobError, ModelError, UsageError
from render_farm.media.mp4 import probe_mp4
from tests.helpers.parity_jobs import TOLERANCE, make_job
from tests.helpers.reference import (
    CLIP_DIM,
    HEIGHT,
    WIDTH,
    build_pipeline,
    load_pipeline,
    make_inputs,
    render_reference,
)

KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "t2v": (SkyReelsV2Pipeline, {}),
    "i2v": (SkyReelsV2ImageToVideoPipeline, {}),
    "flf2v": (SkyReelsV2ImageToVideoPipeline, {"pos_embed_seq_len": 2 * 17}),
}
"""Task of a checkpoint to its class and what its transformer has besides."""


class Model:
    """A checkpoint as both see it."""

    def __init__(self, folder: Path, task: str) -> None:
        cls, transformer = KINDS[task]
        build_pipeline(5, sample_info=False, cls=cls, **transformer).save_pretrained(folder)
        self.task, self.folder, self.cls = task, folder, cls
        self.engine = load_engine(folder, device="cpu", dtype="float32")
        self.pipeline = load_pipeline(folder, torch.float32, cls)

    def job(self, **parameters: Any) -> RenderJob:
        inputs = {"i2v": {"image": "a.png"}, "flf2v": {"image": "a.png", "last_image": "b.png"}}.get(self.task, {})
        return make_job(**inputs, **parameters)

    def inputs(self, **parameters: Any) -> Inputs | None:
        return None if self.task == "t2v" else make_inputs(self.task, **parameters)

    def largest_difference(self, job: RenderJob, inputs: Inputs | None) -> float:
        ours = self.engine.render(job, inputs=inputs)
        theirs = render_reference(self.pipeline, ours.plan, inputs=inputs)
        assert ours.latents.shape == theirs.shape
        assert ours.latents.dtype == torch.float32
        return (ours.latents - theirs).abs().max().item()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    return {task: Model(tmp_path_factory.mktemp(task), task) for task in KINDS}


FILMS = {
    "two latent frames": {"num_frames": 5},
    "short": {"num_frames": 17},
    "rounded up": {"num_frames": 16},
    "rounded down": {"num_frames": 19},
    "longer than a window of the default": {"num_frames": 101, "num_inference_steps": 2},
    "other shift, seed and size": {"num_frames": 17, "flow_shift": 8.0, "seed": 2**40, "height": 48},
    "guidance off": {"num_frames": 17, "guidance_scale": 1.0},
    "guidance 0": {"num_frames": 13, "guidance_scale": 0.0},
    "guided strongly, many steps": {"num_frames": 13, "guidance_scale": 9.0, "num_inference_steps": 20},
    "one step": {"num_frames": 17, "num_inference_steps": 1},
    "two steps": {"num_frames": 17, "num_inference_steps": 2},
    "16 frames a second": {"num_frames": 17, "fps": 16},
    "an empty negative prompt": {"num_frames": 17, "negative_prompt": ""},
}


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("name", FILMS)
def test_latents_equal_the_pipelines(name: str, task: str, models: dict[str, Model]) -> None:
    model = models[task]
    job = model.job(**FILMS[name])
    assert model.largest_difference(job, model.inputs(height=job.height or HEIGHT)) <= TOLERANCE


@pytest.mark.parametrize("task", ["t2v", "i2v"])
def test_a_film_of_one_frame_equals_diffusers(task: str, models: dict[str, Model]) -> None:
    model = models[task]
    assert model.largest_difference(model.job(num_frames=1), model.inputs()) <= TOLERANCE


def test_two_images_need_two_frames(models: dict[str, Model]) -> None:
    model = models["flf2v"]
    plan = model.engine.plan(model.job(num_frames=5))
    one = replace(plan, job=replace(plan.job, num_frames=1))
    with pytest.raises(RuntimeError):
        render_reference(model.pipeline, one, inputs=model.inputs())
    with pytest.raises(InvalidJobError, match="num_frames: 1 has no room for image and last_image; the least is 5"):
        model.engine.plan(model.job(num_frames=1))


@pytest.mark.parametrize("task", KINDS)
def test_frames_equal_the_pipelines(task: str, models: dict[str, Model]) -> None:
    model = models[task]
    video = model.engine.render(model.job(num_frames=17), inputs=model.inputs())
    theirs = render_reference(model.pipeline, video.plan, output_type="np", inputs=model.inputs())
    ours = np.stack(list(video.frames))
    assert ours.shape == (17, HEIGHT, WIDTH, 3)
    assert np.abs(ours.astype(int) - (theirs * 255).astype(np.uint8)).max() <= 1
    assert ours.std() > 1, "the frames show something"


@pytest.mark.parametrize("task", ["i2v", "flf2v"])
def test_a_stretched_picture_is_encoded_as_it_is(task: str, models: dict[str, Model], tmp_path: Path) -> None:
    """diffusers stretches what it encodes with its VAE, and gives its image encoder the picture itself."""
    model, pictures = models[task], make_inputs(task, height=70, width=41)
    paths = {}
    for name in ("image", "last_image")[: 1 if task == "i2v" else 2]:
        paths[name] = str(tmp_path / f"{name}.png")
        Image.fromarray(getattr(pictures, name)).save(paths[name])
    whole = Inputs(
        image=pictures.image,
        last_image=pictures.last_image,
        whole_image=pictures.image,
        whole_last_image=pictures.last_image,
    )
    stretched = model.engine.render(make_job(num_frames=9, fit="stretch", **paths))
    theirs = render_reference(model.pipeline, stretched.plan, inputs=whole)
    assert (stretched.latents - theirs).abs().max() <= TOLERANCE
    cropped = model.engine.render(make_job(num_frames=9, fit="crop", **paths))
    assert (cropped.latents - theirs).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("task", KINDS)
def test_both_samplers_are_the_pipelines(task: str, models: dict[str, Model]) -> None:
    """Its loop hands its scheduler no view of the latents: there is nothing to correct."""
    model = models[task]
    films = [
        model.engine.render(model.job(num_frames=13, sampler=sampler), inputs=model.inputs()).latents
        for sampler in ("reference", "corrected")
    ]
    assert torch.equal(*films)


def test_a_checkpoint_saved_with_causal_blocks_keeps_them(tmp_path: Path, models: dict[str, Model]) -> None:
    """`_set_ar_attention` stays in what `save_pretrained` writes, and diffusers' forward then masks here, too."""
    pipeline = build_pipeline(5, sample_info=False, cls=SkyReelsV2Pipeline)
    pipeline.transformer._set_ar_attention(2)
    pipeline.save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", dtype="float32")
    video = engine.render(make_job(num_frames=13))
    assert (video.latents - render_reference(pipeline, video.plan)).abs().max() <= TOLERANCE
    off = engine.render(make_job(num_frames=13, causal_block_size=1)).latents
    assert torch.equal(off, models["t2v"].engine.render(make_job(num_frames=13)).latents)
    assert (video.latents - off).abs().max() > 10 * TOLERANCE
    with pytest.raises(InvalidJobError, match=r"causal_block_size: 2 does not divide window 0, which has 5 .* fails"):
        engine.plan(make_job(num_frames=17))
    with pytest.raises(RuntimeError):
        render_reference(pipeline, replace(video.plan, job=replace(video.plan.job, num_frames=17)))


WRONG = {
    "other image": {"image": 1},
    "other last image": {"last_image": 1},
    "images swapped": {"image": "last_image", "last_image": "image"},
}


@pytest.mark.parametrize("name", WRONG)
def test_another_image_would_be_seen(name: str, models: dict[str, Model]) -> None:
    model, inputs, other = models["flf2v"], make_inputs("flf2v"), make_inputs("flf2v", seed=1)
    changed = {
        column: getattr(inputs, value) if isinstance(value, str) else getattr(other, column)
        for column, value in WRONG[name].items()
    }
    right, wrong = (
        model.engine.render(model.job(num_frames=9), inputs=given).latents
        for given in (inputs, replace(inputs, **changed))
    )
    assert (right - wrong).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("part", ["mask", "latents", "states"])
def test_each_way_in_which_an_image_counts_would_be_seen(part: str, models: dict[str, Model]) -> None:
    model = models["i2v"]
    plan = model.engine.plan(model.job(num_frames=9))
    embeddings = model.engine.encode_prompts(plan.texts)
    inputs = model.inputs()
    assert inputs is not None
    right = model.engine.encode_conditioning(plan, inputs)
    assert right.image_channels is not None
    assert right.image_states is not None
    assert right.image_channels.shape == (1, 20, 3, HEIGHT // 8, WIDTH // 8)
    assert right.image_states.shape == (1, 17, CLIP_DIM)
    channels, states = right.image_channels.clone(), right.image_states.clone()
    if part == "states":
        states.zero_()
    else:
        channels[:, slice(4) if part == "mask" else slice(4, None)] = 0
    wrong = replace(right, image_channels=channels, image_states=states)
    films = [
        model.engine.render_segment(plan, 0, history=None, embeddings=embeddings, conditioning=given)
        for given in (right, wrong)
    ]
    assert (films[0] - films[1]).abs().max() > 10 * TOLERANCE


def test_a_segment_checks_what_it_is_conditioned_on(models: dict[str, Model]) -> None:
    model = models["i2v"]
    plan = model.engine.plan(model.job(num_frames=9))
    assert [window.needs_inputs for window in plan.windows] == [True]
    embeddings = model.engine.encode_prompts(plan.texts)
    given = model.engine.encode_conditioning(plan, model.inputs())  # type: ignore[arg-type]
    for wrong, message in [
        (None, r"needs image_channels latents of shape \(1, 20, 3, 4, 6\), given none"),
        (replace(given, image_channels=torch.zeros(1, 20, 2, 4, 6)), r"given \(1, 20, 2, 4, 6\)"),
        (replace(given, image_states=None), "needs the states of its images, given none"),
    ]:
        with pytest.raises(UsageError, match=message):
            model.engine.render_segment(plan, 0, history=None, embeddings=embeddings, conditioning=wrong)
    with pytest.raises(InputError, match="last_image: its pixels are missing, task flf2v needs them"):
        models["flf2v"].engine.render(models["flf2v"].job(num_frames=9), inputs=make_inputs("i2v"))


def test_bfloat16_is_no_further_from_float32_than_diffusers(models: dict[str, Model]) -> None:
    model, inputs = models["flf2v"], make_inputs("flf2v")
    engine = load_engine(model.folder, device="cpu", dtype="bfloat16")
    theirs_bf16 = load_pipeline(model.folder, torch.bfloat16, model.cls)
    ours_squared = theirs_squared = 0.0
    for seed in (1, 2, 3):
        plan = engine.plan(model.job(num_frames=13, seed=seed))
        exact = render_reference(model.pipeline, plan, inputs=inputs)
        ours_squared += (
            (engine.render(model.job(num_frames=13, seed=seed), inputs=inputs).latents - exact).square().mean()
        )
        theirs_squared += (render_reference(theirs_bf16, plan, inputs=inputs) - exact).square().mean()
    ratio = (ours_squared / theirs_squared) ** 0.5
    print(f"root mean square error {ours_squared**0.5:.3g}, diffusers {theirs_squared**0.5:.3g}, ratio {ratio:.3f}")
    assert ratio <= 1.15


def test_a_film_is_saved(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["flf2v"]
    model.engine.render(model.job(num_frames=9), inputs=model.inputs()).save(tmp_path / "a.mp4")
    assert probe_mp4(tmp_path / "a.mp4").num_frames == 9


# --- where diffusers fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["i2v", "flf2v"])
def test_one_image_too_many_or_too_few(task: str, models: dict[str, Model]) -> None:
    """What tells first from last takes both, and what does not takes one: diffusers fails in the first step."""
    model, other = models[task], models["flf2v" if task == "i2v" else "i2v"]
    plan = replace(other.engine.plan(other.job(num_frames=5)), spec=model.engine.spec)
    with pytest.raises(RuntimeError):
        render_reference(model.pipeline, plan, inputs=other.inputs())
    with pytest.raises(InvalidJobError, match=f"task: {other.task} is not served by .*; it serves {task} \\(image"):
        model.engine.plan(other.job(num_frames=5))


@pytest.mark.parametrize("task", ["t2v", "i2v"])
def test_a_checkpoint_that_wants_the_frame_rate(task: str, models: dict[str, Model], tmp_path: Path) -> None:
    pipeline = build_pipeline(5, sample_info=True, cls=KINDS[task][0])
    pipeline.save_pretrained(tmp_path)
    model = models[task]
    with pytest.raises(TypeError):
        render_reference(pipeline, model.engine.plan(model.job(num_frames=5)), inputs=model.inputs())
    with pytest.raises(
        InvalidJobError, match=r"model: .* is told the frame rate .*DiffusionForcingPipeline would work"
    ):
        load_engine(tmp_path, device="cpu").plan(model.job(num_frames=5))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES: dict[str, tuple[Any, str]] = {
    "no image encoder": (
        lambda folder: edit(folder / "model_index.json", image_encoder=[None, None]),
        "its image_encoder is None, not CLIPVisionModelWithProjection",
    ),
    "another image processor": (
        lambda folder: edit(folder / "model_index.json", image_processor=["transformers", "ViTImageProcessor"]),
        "its image_processor is ViTImageProcessor, not CLIP",
    ),
    "no weights of the image encoder": (
        lambda folder: (folder / "image_encoder" / "model.safetensors").unlink(),
        "image_encoder/ has no",
    ),
    "another pipeline's name": (
        lambda folder: edit(folder / "model_index.json", _class_name="SkyReelsV2DiffusionForcingPipeline"),
        "its transformer has in_channels 36, but a model of its class, without an image encoder, needs 16",
    ),
    "an image encoder of another width": (
        lambda folder: edit(folder / "image_encoder" / "config.json", hidden_size=64),
        f"its transformer has image_dim {CLIP_DIM}, but .* needs 64",
    ),
    "positions for other images": (
        lambda folder: edit(folder / "transformer" / "config.json", pos_embed_seq_len=514),
        "its transformer has pos_embed_seq_len 514, but .* needs 34",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    build_pipeline(5, sample_info=False, num_layers=1, cls=SkyReelsV2ImageToVideoPipeline).save_pretrained(tmp_path)
    damage, message = DAMAGES[name]
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_engine(tmp_path, device="cpu")


def test_an_image_processor_of_another_size(tmp_path: Path, models: dict[str, Model]) -> None:
    pipeline = build_pipeline(5, sample_info=False, num_layers=1, cls=SkyReelsV2ImageToVideoPipeline)
    pipeline.image_processor.crop_size = {"height": 14, "width": 14}
    pipeline.save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu")
    with pytest.raises(ModelError, match=r"makes pictures of \(14, 14\), its image_encoder takes \(28, 28\)"):
        engine.render(models["i2v"].job(num_frames=5), inputs=make_inputs("i2v"))


def test_the_identity_follows_the_image_encoder(models: dict[str, Model], tmp_path: Path) -> None:
    build_pipeline(5, sample_info=False, cls=SkyReelsV2ImageToVideoPipeline).save_pretrained(tmp_path)
    before: Engine = load_engine(tmp_path, device="cpu")
    assert before.spec.fingerprint == models["i2v"].engine.spec.fingerprint
    edit(tmp_path / "image_processor" / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    assert load_engine(tmp_path, device="cpu").spec.fingerprint != before.spec.fingerprint
