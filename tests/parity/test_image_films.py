"""i2v and flf2v equal diffusers' `SkyReelsV2DiffusionForcingImageToVideoPipeline`; and where it fails, the same
pipeline with the failing lines repaired."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from render_farm import RenderJob
from render_farm.engine import Engine, Inputs, load_engine
from render_farm.errors import InputError, UsageError
from render_farm.media.limits import InputLimits
from render_farm.planning import with_inputs_read
from tests.helpers.parity_jobs import LONG, TOLERANCE, make_job
from tests.helpers.reference import HEIGHT, WIDTH, build_pipeline, make_inputs, pipeline_for, render_reference
from tests.helpers.repaired import RepairedImagePipeline


def image_job(task: str, **parameters: Any) -> RenderJob:
    last = {"last_image": "last.png"} if task == "flf2v" else {}
    return make_job(image="first.png", fit="stretch", **last, **parameters)


def largest_difference(engine: Engine, reference: Any, job: RenderJob, inputs: Inputs) -> float:
    video = engine.render(job, inputs=inputs)
    theirs = render_reference(reference, video.plan, inputs=inputs)
    assert video.latents.shape == theirs.shape
    assert video.latents.dtype == torch.float32
    return (video.latents - theirs).abs().max().item()


LATE_OVERLAP_1 = {"base_num_frames": 37, "overlap_history": 1}

SHORT = {
    "two latent frames": {"num_frames": 5},
    "short": {"num_frames": 17},
    "short, rounded up": {"num_frames": 20},
    "short, other shift, seed and size": {"num_frames": 17, "flow_shift": 5.0, "seed": 2**40, "height": 48},
    "short, guidance off": {"num_frames": 17, "guidance_scale": 1.0},
    "short, 16 frames a second": {"num_frames": 17, "fps": 16},
    "short, ar_step 2": {"num_frames": 21, "ar_step": 2},
    "short, ar_step 6 (more than the steps)": {"num_frames": 17, "ar_step": 6},
    "short, addnoise 20.7": {"num_frames": 17, "addnoise_condition": 20.7},
    "short, addnoise 20, ar_step 1": {"num_frames": 17, "addnoise_condition": 20, "ar_step": 1},
    "short, addnoise 40 once": {"num_frames": 17, "addnoise_condition": 40, "prefix_noise": "once"},
    "short, guided strongly, many steps": {"num_frames": 17, "guidance_scale": 9.0, "num_inference_steps": 20},
    "short, one step": {"num_frames": 17, "num_inference_steps": 1},
}
WHOLE_WINDOWS = {
    "two windows": {"num_frames": 57, **LONG},
    "three windows": {"num_frames": 77, **LONG},
    "three windows, overlap not 4n+1": {"num_frames": 77, "base_num_frames": 37, "overlap_history": 18},
    "three windows, guidance off, 16 frames a second": {"num_frames": 77, **LONG, "guidance_scale": 0.0, "fps": 16},
    "two windows, ar_step 3": {"num_frames": 57, **LONG, "ar_step": 3},
    "two windows, addnoise 20": {"num_frames": 57, **LONG, "addnoise_condition": 20},
    "two windows, addnoise 20, ar_step 1": {"num_frames": 57, **LONG, "addnoise_condition": 20, "ar_step": 1},
}
OVERLAP_OF_ONE = {
    "two windows": {"num_frames": 73, **LATE_OVERLAP_1},
    "three windows, ar_step 1": {"num_frames": 109, **LATE_OVERLAP_1, "ar_step": 1},
    "two windows, addnoise 20": {"num_frames": 73, **LATE_OVERLAP_1, "addnoise_condition": 20},
}
EXTENSIONS = {
    "short last window": {"num_frames": 69, **LONG},
    "short last window, ar_step 2": {"num_frames": 49, **LONG, "ar_step": 2},
    "short last window, addnoise 20": {"num_frames": 49, **LONG, "addnoise_condition": 20},
    "overlap of one, short last window": {"num_frames": 57, **LATE_OVERLAP_1},
}


@pytest.mark.parametrize("task", ["i2v", "flf2v"])
@pytest.mark.parametrize("name", SHORT)
def test_short_films_equal_the_pipelines(name: str, task: str, engine: Engine, pipeline: Any) -> None:
    job = image_job(task, **SHORT[name])
    inputs = make_inputs(task, height=job.height or HEIGHT)
    assert largest_difference(engine, pipeline_for(pipeline, task), job, inputs) <= TOLERANCE


@pytest.mark.parametrize("name", WHOLE_WINDOWS)
def test_long_i2v_films_equal_the_pipelines(name: str, engine: Engine, pipeline: Any) -> None:
    job = image_job("i2v", **WHOLE_WINDOWS[name])
    assert largest_difference(engine, pipeline_for(pipeline, "i2v"), job, make_inputs("i2v")) <= TOLERANCE


@pytest.mark.parametrize("name", OVERLAP_OF_ONE)
def test_long_flf2v_films_with_an_overlap_of_one_equal_the_pipelines(name: str, engine: Engine, pipeline: Any) -> None:
    """The only overlap with which diffusers renders a last image in a long film."""
    job, inputs = image_job("flf2v", **OVERLAP_OF_ONE[name]), make_inputs("flf2v")
    assert not any("extension" in warning for warning in engine.plan(job).warnings)
    assert largest_difference(engine, pipeline_for(pipeline, "flf2v"), job, inputs) <= TOLERANCE


@pytest.mark.parametrize(
    ("task", "parameters"),
    [("i2v", EXTENSIONS[name]) for name in EXTENSIONS]
    + [("flf2v", values) for values in (*EXTENSIONS.values(), *WHOLE_WINDOWS.values())],
    ids=str,
)
def test_extensions_equal_the_repaired_pipeline(task: str, parameters: dict, engine: Engine, pipeline: Any) -> None:
    job, inputs = image_job(task, **parameters), make_inputs(task)
    with pytest.raises((IndexError, RuntimeError)):
        render_reference(pipeline_for(pipeline, task), engine.plan(job), inputs=inputs)
    assert any("diffusers fails" in warning for warning in engine.plan(job).warnings)
    reference = pipeline_for(pipeline, task, RepairedImagePipeline)
    assert largest_difference(engine, reference, job, inputs) <= TOLERANCE


@pytest.mark.parametrize("task", ["i2v", "flf2v"])
def test_the_repairs_change_nothing_that_works(task: str, engine: Engine, pipeline: Any) -> None:
    plan, inputs = engine.plan(image_job(task, num_frames=17, addnoise_condition=20)), make_inputs(task)
    expected = render_reference(pipeline_for(pipeline, task), plan, inputs=inputs)
    assert torch.equal(
        render_reference(pipeline_for(pipeline, task, RepairedImagePipeline), plan, inputs=inputs), expected
    )


@pytest.mark.parametrize(("task", "num_frames"), [("i2v", 17), ("i2v", 57), ("flf2v", 17), ("flf2v", 73)])
def test_frames_equal_the_pipelines(task: str, num_frames: int, engine: Engine, pipeline: Any) -> None:
    overlap = LATE_OVERLAP_1 if task == "flf2v" else LONG
    job, inputs = image_job(task, num_frames=num_frames, **overlap), make_inputs(task)
    video = engine.render(job, inputs=inputs)
    reference = pipeline_for(pipeline, task)
    theirs = (render_reference(reference, video.plan, output_type="np", inputs=inputs) * 255).astype(np.uint8)
    ours = np.stack(list(video.frames))
    assert ours.shape == theirs.shape == (num_frames, HEIGHT, WIDTH, 3)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert video.num_frames == num_frames


@pytest.mark.parametrize("task", ["i2v", "flf2v"])
def test_model_without_sample_info(task: str, tmp_path) -> None:
    pipeline = build_pipeline(3, sample_info=False)
    pipeline.save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", dtype="float32")
    job = image_job(task, num_frames=17, fps=16)
    assert largest_difference(engine, pipeline_for(pipeline, task), job, make_inputs(task)) <= TOLERANCE


@pytest.mark.parametrize("task", ["i2v", "flf2v"])
def test_the_first_latent_frame_is_that_of_the_image(task: str, engine: Engine) -> None:
    """The film's first latent frame is the image's; another image, or no noise on it, would be seen."""
    job, inputs = image_job(task, num_frames=17), make_inputs(task)
    video = engine.render(job, inputs=inputs)
    conditioning = engine.encode_conditioning(video.plan, inputs)
    assert conditioning.first_image is not None
    assert torch.equal(video.latents[:, :, :1], conditioning.first_image)
    noisy = engine.render(image_job(task, num_frames=17, addnoise_condition=20), inputs=inputs)
    assert torch.equal(noisy.latents[:, :, :1], conditioning.first_image)
    assert (noisy.latents - video.latents).abs().max() > 10 * TOLERANCE
    other = engine.render(job, inputs=make_inputs(task, seed=1))
    assert (other.latents[:, :, 1:] - video.latents[:, :, 1:]).abs().max() > 10 * TOLERANCE


def test_the_last_image_is_seen_by_the_last_segment_only(engine: Engine) -> None:
    inputs = make_inputs("flf2v")
    first = engine.render(image_job("i2v", num_frames=77, **LONG), inputs=Inputs(image=inputs.image))
    both = engine.render(image_job("flf2v", num_frames=77, **LONG), inputs=inputs)
    kept = both.plan.windows[1].end
    assert both.latents.shape == first.latents.shape
    # The images are encoded in one batch, as diffusers does: that alone moves the first by about 1e-7.
    assert (both.latents[:, :, :kept] - first.latents[:, :, :kept]).abs().max() <= TOLERANCE
    assert (both.latents[:, :, kept:] - first.latents[:, :, kept:]).abs().max() > 10 * TOLERANCE


def test_segments_can_be_rendered_one_by_one(engine: Engine) -> None:
    job, inputs = image_job("flf2v", num_frames=77, **LONG, addnoise_condition=20), make_inputs("flf2v")
    whole = engine.render(job, inputs=inputs)
    plan = engine.plan(job)
    embeddings, conditioning = engine.encode_prompts(plan.texts), engine.encode_conditioning(plan, inputs)
    for window, start in zip(plan.windows, (0, 10, 15), strict=True):
        history = whole.latents[:, :, start - 5 : start] if start else None
        needed = conditioning if window.needs_inputs else None
        piece = engine.render_segment(plan, window.index, history=history, embeddings=embeddings, conditioning=needed)
        assert torch.equal(piece, whole.latents[:, :, start : window.end])
    assert [window.needs_inputs for window in plan.windows] == [True, False, True]
    for index in (0, 2):
        history = whole.latents[:, :, 10:15] if index else None
        with pytest.raises(UsageError, match=r"of a flf2v film needs .* given none"):
            engine.render_segment(plan, index, history=history, embeddings=embeddings)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (Inputs(), "image: its pixels are missing, task i2v needs them"),
        (
            Inputs(image=np.zeros((HEIGHT, WIDTH + 16, 3), np.uint8)),
            r"image: is \(32, 64, 3\) uint8, not \(32, 48, 3\)",
        ),
        (Inputs(image=np.zeros((HEIGHT, WIDTH, 4), np.uint8)), r"image: is \(32, 48, 4\) uint8"),
        (Inputs(image=np.zeros((HEIGHT, WIDTH, 3), np.float32)), "float32, not"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(inputs: Inputs, message: str, engine: Engine) -> None:
    with pytest.raises(InputError, match=message):
        engine.render(image_job("i2v", num_frames=17), inputs=inputs)


def test_pixels_for_a_job_without_inputs_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="names no image or video"):
        engine.render(make_job(num_frames=5), inputs=make_inputs("i2v"))


def test_images_are_read_from_their_uris(engine: Engine, tmp_path: Path) -> None:
    inputs = make_inputs("flf2v")
    uris = {"image": tmp_path / "first.png", "last_image": tmp_path / "last.png"}
    Image.fromarray(inputs.image).save(uris["image"])
    Image.fromarray(inputs.last_image).save(uris["last_image"])
    job = make_job(num_frames=9, **{name: str(path) for name, path in uris.items()})
    video = engine.render(job)
    assert torch.equal(video.latents, engine.render(job, inputs=inputs).latents)
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in uris.items()}
    assert dict(video.plan.job.input_digests) == digests
    assert video.plan == with_inputs_read(engine.plan(job), digests)


def test_an_image_that_is_not_there_fails_before_any_prompt_is_encoded(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "encode_prompts", lambda texts: pytest.fail("too late"))
    with pytest.raises(InputError, match=r"missing\.png"):
        engine.render(make_job(num_frames=9, image=str(tmp_path / "missing.png")))


def test_images_are_read_within_the_limits(
    engine: Engine, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that renders others' jobs sets what they may read, in the call or in the settings."""
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "a.png")
    job = make_job(num_frames=5, num_inference_steps=1, image=str(tmp_path / "a.png"))
    limited = load_engine(model_folder, device="cpu", limits=InputLimits(allowed_roots=(str(tmp_path / "in"),)))
    with pytest.raises(InputError, match="local files from there are not allowed"):
        limited.render(job)
    monkeypatch.setenv("RENDER_FARM_INPUT_ALLOWED_ROOTS", str(tmp_path / "in"))
    with pytest.raises(InputError, match="local files from there are not allowed"):
        engine.render(job)
    monkeypatch.setenv("RENDER_FARM_INPUT_ALLOWED_ROOTS", str(tmp_path))
    engine.render(job)


def test_the_render_key_is_of_the_content(engine: Engine) -> None:
    inputs = make_inputs("i2v")
    one = engine.render(image_job("i2v", num_frames=5, num_inference_steps=1), inputs=inputs).plan
    job = make_job(image="elsewhere.png", fit="stretch", num_frames=5, num_inference_steps=1)
    assert engine.render(job, inputs=inputs).plan.render_key == one.render_key
    assert engine.render(job, inputs=make_inputs("i2v", seed=1)).plan.render_key != one.render_key
