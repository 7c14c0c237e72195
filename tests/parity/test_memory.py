"""The memory modes: where weights lie changes nothing; what changes a film does it as diffusers' own options do."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from render_farm.engine import Engine, StepProgress, StreamingDecoder, load_engine
from render_farm.engine.weights import resident_transformer
from render_farm.errors import MemoryModeError, OutOfMemoryError
from render_farm.memory_mode import parse_memory
from tests.helpers.parity_jobs import LONG, TOLERANCE, make_job
from tests.helpers.reference import load_pipeline, make_inputs, pipeline_for, render_reference
from tests.helpers.whole_decoding import noise, whole

FILM = {"num_frames": 57, **LONG, "causal_block_size": 5, "ar_step": 2, "num_inference_steps": 3}
PLACEMENTS = ["offload_block", "offload_leaf", "offload_disk"]
TILES = {
    "tile_sample_min_height": 16,
    "tile_sample_stride_height": 8,
    "tile_sample_min_width": 24,
    "tile_sample_stride_width": 16,
}


@pytest.fixture(scope="module")
def movable(model_folder: Path) -> Engine:
    """An engine of this file's own: its weights come and go."""
    return load_engine(model_folder, device="cpu", dtype="float32")


def latents(engine: Engine, memory: str, **parameters: Any) -> torch.Tensor:
    return engine.render(make_job(**{**FILM, "memory": memory, **parameters})).latents


def assert_same(ours: torch.Tensor, expected: torch.Tensor, placement: str) -> None:
    """Bit-equal. Weights from files are mapped where they lie in them, and the CPU's kernels sum in another order when
    a matrix does not begin at a multiple of 64 bytes: there the last bits may differ."""
    if placement.startswith("offload_disk"):
        assert (ours - expected).abs().max() <= TOLERANCE
    else:
        assert torch.equal(ours, expected)


def quantised_by_diffusers(model_folder: Path, form: str) -> Any:
    pipeline = load_pipeline(model_folder, torch.float32)
    if form == "fp8_cast":
        pipeline.transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=pipeline.transformer.dtype
        )
    else:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        quantize_(pipeline.transformer.blocks, {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[form]())
    return pipeline


# --- where the weights lie --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_placement_changes_no_bit(placement: str, movable: Engine) -> None:
    exact = latents(movable, "resident")
    assert_same(latents(movable, placement), exact, placement)
    assert str(movable.memory) == placement
    assert torch.equal(latents(movable, "resident"), exact), "and back"


def test_one_placement_after_another(movable: Engine) -> None:
    exact = latents(movable, "auto")
    for placement in ("offload_leaf", "offload_block", "offload_disk", "offload_leaf"):
        assert_same(latents(movable, placement), exact, placement)


def test_files_of_the_weights_are_removed_with_them(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = load_engine(model_folder, device="cpu", dtype="float32")
    latents(engine, "offload_disk", num_inference_steps=1)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    weights = sum(p.numel() * p.element_size() for p in engine.transformer.parameters())
    assert written >= weights
    engine._denoiser.model(parse_memory("resident"))
    assert list(tmp_path.iterdir()) == []


# --- weights in another form ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["fp8_cast", "int8", "fp8"])
def test_weights_of_another_form_give_the_film_that_diffusers_gives_with_them(
    form: str, movable: Engine, model_folder: Path
) -> None:
    if form != "fp8_cast":
        pytest.importorskip("torchao")
    exact, ours = latents(movable, "resident"), latents(movable, form)
    theirs = render_reference(quantised_by_diffusers(model_folder, form), movable.plan(make_job(**FILM, memory=form)))
    print(
        f"{form}: {(ours - theirs).abs().max():.1e} from diffusers with it, {(ours - exact).abs().max():.2g} from full"
    )
    assert (ours - theirs).abs().max() <= TOLERANCE
    assert (ours - exact).abs().max() > 100 * TOLERANCE
    placements = [p for p in PLACEMENTS if form == "fp8_cast" or p != "offload_disk"]
    for placement in placements:
        assert_same(latents(movable, f"{placement}+{form}"), ours, placement)
    assert torch.equal(latents(movable, "resident"), exact), "full weights again"


def test_cast_weights_take_a_quarter(movable: Engine) -> None:
    def matrices(form: str) -> int:
        latents(movable, form, num_inference_steps=1)
        blocks = movable.transformer.blocks
        return sum(p.numel() * p.element_size() for p in blocks.parameters() if p.ndim == 2)

    full, cast = matrices("resident"), matrices("fp8_cast")
    assert cast == full / 4


def test_a_package_that_is_missing_is_named(movable: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torchao" else found(name, *a))
    with pytest.raises(MemoryModeError, match=r"needs the package torchao.*pip install 'render_farm\[torchao\]'"):
        latents(movable, "int8")
    assert latents(movable, "auto").isfinite().all()


# --- the VAE in tiles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiles", [{}, TILES])
@pytest.mark.parametrize("pieces", [[5], [1, 2, 2]])
def test_tiles_in_a_stream_equal_the_tiled_whole(pieces: list[int], tiles: dict[str, int], model_folder: Path) -> None:
    vae = load_engine(model_folder, device="cpu").vae
    vae.enable_tiling(**tiles)
    decoder = StreamingDecoder(vae, tiling=True)
    frames = np.stack([frame for piece in noise(5).split(pieces, dim=2) for frame in decoder.push(piece)])
    assert np.array_equal(frames, whole(vae, noise(5)))
    vae.use_tiling = False
    differs = not np.array_equal(frames, whole(vae, noise(5)))
    assert differs == bool(tiles), "a picture smaller than a tile is decoded as ever"


def test_a_film_from_a_video_in_tiles(model_folder: Path) -> None:
    """Its input is encoded in tiles too."""
    engine, pipeline = load_engine(model_folder, device="cpu"), load_pipeline(model_folder, torch.float32)
    job = make_job(
        num_frames=37, overlap_history=17, base_num_frames=37, video="v", keep_overlap=True, memory="vae_tiling"
    )
    inputs = make_inputs("v2v")
    exact = engine.render(make_job(**{**vars_of(job), "memory": "auto"}), inputs=inputs)
    engine.vae.enable_tiling(**TILES)
    pipeline.vae.enable_tiling(**TILES)
    ours = engine.render(job, inputs=inputs)
    theirs = render_reference(pipeline_for(pipeline, "v2v"), ours.plan, inputs=inputs)
    assert (ours.latents - theirs).abs().max() <= TOLERANCE
    assert (ours.latents - exact.latents).abs().max() > 100 * TOLERANCE
    assert ours.plan.render_key != exact.plan.render_key


def vars_of(job: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(job).items() if value is not None}


# --- out of memory ----------------------------------------------------------------------------------------------------


class Device:
    """Runs out of memory at the second step of every mode in `too_large`."""

    def __init__(self, engine: Engine, *too_large: str) -> None:
        self.engine, self.too_large, self.modes = engine, too_large, [""]

    def __call__(self, progress: StepProgress) -> None:
        mode = str(self.engine.memory)
        if mode != self.modes[-1]:
            self.modes.append(mode)
        if progress.step == 2 and mode in self.too_large:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")


def test_out_of_memory_takes_the_next_smaller_mode_and_remembers(model_folder: Path, movable: Engine) -> None:
    engine, exact = load_engine(model_folder, device="cpu"), latents(movable, "resident")
    device = Device(engine, "resident")
    assert_same(engine.render(make_job(**FILM), device).latents, exact, "offload_disk")
    assert device.modes == ["", "resident", "offload_disk"]
    larger, smaller = Device(engine, "resident"), Device(engine, "resident")
    engine.render(make_job(**{**FILM, "height": 48, "num_inference_steps": 1}), larger)
    assert larger.modes == ["", "offload_disk"], "a larger film does not try what was too small"
    engine.render(make_job(num_frames=17, num_inference_steps=1), smaller)
    assert smaller.modes == ["", "resident"], "a smaller one does"


def test_memory_that_is_short_once_demotes_nobody(model_folder: Path, movable: Engine) -> None:
    engine, exact = load_engine(model_folder, device="cpu"), latents(movable, "resident")
    device = Device(engine, "resident")

    def short_once(progress: StepProgress) -> None:
        try:
            device(progress)
        except torch.OutOfMemoryError:
            device.too_large = ()
            raise

    assert torch.equal(engine.render(make_job(**FILM), short_once).latents, exact)
    assert device.modes == ["", "resident"]
    assert engine._denoiser.notes == ()


def test_a_mode_that_was_too_small_is_tried_again_after_a_while(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident_transformer, "_FORGET_AFTER", 2)
    engine = load_engine(model_folder, device="cpu")
    job = make_job(num_frames=17, num_inference_steps=2)
    engine.render(job, Device(engine, "resident"))
    assert engine._denoiser.notes == (
        "memory: offload_disk, for resident ran out of memory; tried again after 2 segments",
    )
    modes = []
    for _ in range(3):
        engine.render(job)
        modes.append(str(engine.memory))
    assert modes == ["offload_disk", "offload_disk", "resident"]
    assert engine._denoiser.notes == ()


def test_out_of_memory_in_every_mode_is_the_jobs_fault(model_folder: Path) -> None:
    engine = load_engine(model_folder, device="cpu")
    with pytest.raises(OutOfMemoryError, match=r"resident and offload_disk.*fp8_cast"):
        engine.render(make_job(**FILM), Device(engine, "resident", "offload_disk"))


def test_a_mode_by_name_is_kept(model_folder: Path) -> None:
    engine = load_engine(model_folder, device="cpu")
    device = Device(engine, "resident")
    with pytest.raises(OutOfMemoryError, match=r"memory: resident.*memory: auto tries"):
        engine.render(make_job(**FILM, memory="resident"), device)
    assert device.modes == ["", "resident"]
