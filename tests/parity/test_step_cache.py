"""Approximate step caches: exact at threshold 0, bounded above it, by window and guidance branch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from render_farm import RenderJob
from render_farm.engine import Engine, StepProgress, load_engine
from render_farm.engine.calibrate import measure_magnitudes, save_magnitudes
from render_farm.errors import InvalidJobError, UsageError
from render_farm.planning.magnitudes import Magnitudes
from render_farm.tiny import MODEL_DIR

SYNC: dict[str, Any] = {"num_frames": 37, "num_inference_steps": 12}
ASYNC: dict[str, Any] = {**SYNC, "num_frames": 57, "causal_block_size": 5, "ar_step": 2, "base_num_frames": 37}
MODES = {"synchronous": SYNC, "asynchronous, two windows": ASYNC}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """`tiny` in a folder of its own, with its magnitudes."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(MODEL_DIR, folder)
    engine = load_engine(folder, device="cpu", dtype="float32")
    save_magnitudes(folder, measure_magnitudes(engine, job(**{**SYNC, "num_frames": 17})))
    return load_engine(folder, device="cpu", dtype="float32")


def job(**parameters: Any) -> RenderJob:
    values = {"job_id": "a", "prompt": "a red circle moving right on a black background", "seed": 3}
    size = {"height": 64, "width": 64, "guidance_scale": 3.0, "flow_shift": 3.0}
    return RenderJob(**{**values, **size, **parameters})


def render(engine: Engine, **parameters: Any) -> tuple[torch.Tensor, list[int]]:
    """The film and, by segment, how many steps were skipped."""
    skipped: dict[int, int] = {}

    def on_step(progress: StepProgress) -> None:
        skipped[progress.segment] = progress.num_skipped

    return engine.render(job(**parameters), on_step).latents, list(skipped.values())


@pytest.fixture(scope="module")
def exact(calibrated: Engine) -> Callable[[str], torch.Tensor]:
    films = {name: render(calibrated, **mode)[0] for name, mode in MODES.items()}
    return films.__getitem__


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cache", ["first_block:0", "mag:0"])
def test_a_threshold_of_0_is_exact(cache: str, mode: str, calibrated: Engine, exact: Callable) -> None:
    film, skipped = render(calibrated, **MODES[mode], cache=cache)
    assert torch.equal(film, exact(mode))
    assert not any(skipped)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cache", ["first_block:0.2", "mag:0.06"])
def test_steps_are_skipped_in_every_window_and_the_film_is_near(
    cache: str, mode: str, calibrated: Engine, exact: Callable
) -> None:
    film, skipped = render(calibrated, **MODES[mode], cache=cache)
    difference = ((film - exact(mode)).square().mean() / exact(mode).square().mean()).sqrt().item()
    steps = [calibrated.plan(job(**MODES[mode])).schedule(k).num_rows for k in range(len(skipped))]
    print(f"{cache}, {mode}: {skipped} of {steps} steps skipped, relative difference {difference:.3g}")
    assert all(0 < count < total for count, total in zip(skipped, steps, strict=True))
    assert 0 < difference < 0.1
    assert torch.equal(film, render(calibrated, **MODES[mode], cache=cache)[0]), "nothing is left of an earlier film"


def test_guidance_off_has_one_branch(calibrated: Engine) -> None:
    film, skipped = render(calibrated, **SYNC, guidance_scale=1.0, cache="first_block:0.2")
    assert film.isfinite().all()
    assert skipped[0] > 0


def test_a_film_says_that_it_is_approximate(calibrated: Engine) -> None:
    plans = [calibrated.plan(job(**SYNC, cache=cache)) for cache in (None, "off", "first_block:0.1", "mag:0.1")]
    assert [plan.approximations for plan in plans[:3]] == [(), (), ("cache first_block:0.1",)]
    assert len({plan.render_key for plan in plans}) == 3


def test_mag_is_refused_without_magnitudes_of_these_weights(calibrated: Engine, tmp_path: Path) -> None:
    with pytest.raises(InvalidJobError, match=r"cache: mag needs the magnitudes of tiny.*calibrate"):
        load_engine("tiny", device="cpu").plan(job(cache="mag"))
    found = calibrated.spec.magnitudes
    assert found is not None
    shutil.copytree(MODEL_DIR, tmp_path / "other")
    save_magnitudes(tmp_path / "other", Magnitudes(fingerprint="0" * 16, timesteps=(999,), branches=((1.0,),)))
    assert load_engine(tmp_path / "other", device="cpu").spec.magnitudes is None
    assert found.at(999, 0) == 1.0
    assert found.at(found.timesteps[3], 1) == found.branches[1][3]
    assert min(found.branches[0][3:5]) <= found.at(sum(found.timesteps[3:5]) // 2, 0) <= max(found.branches[0][3:5])
    with pytest.raises(UsageError, match="one window"):
        measure_magnitudes(calibrated, job(**ASYNC))
