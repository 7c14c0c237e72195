"""Presets and defaults against diffusers: shapes are counted on the `meta` device."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
)

from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.models import PRESETS, defaults_for
from render_farm.planning.frames import rounded_num_frames
from render_farm.tiny import MODEL_DIR

PUBLISHED = {
    "df-1.3b-540p": 1.436e9,
    "df-14b-540p": 14.289e9,
    "df-14b-720p": 14.289e9,
    "t2v-14b-540p": 14.289e9,
    "t2v-14b-720p": 14.289e9,
    "i2v-1.3b-540p": 1.564e9,
    "flf2v-1.3b-540p": 1.564e9,
    "i2v-14b-540p": 16.395e9,
    "i2v-14b-720p": 16.395e9,
}


def test_there_are_nine_checkpoints_and_the_built_in_one() -> None:
    assert set(PRESETS) == {*PUBLISHED, "tiny"}


@pytest.mark.parametrize("name", PRESETS)
def test_the_shape_has_the_checkpoints_number_of_parameters(name: str, tmp_path: Path) -> None:
    preset = PRESETS[name]
    (tmp_path / "config.json").write_text(json.dumps(preset.transformer_config()))
    with torch.device("meta"):
        model = SkyReelsV2Transformer3DModel.from_config(SkyReelsV2Transformer3DModel.load_config(tmp_path))
    assert all(parameter.is_meta for parameter in model.parameters())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(preset.num_parameters, rel=1e-3)
    assert count == pytest.approx(PUBLISHED.get(name, preset.num_parameters), rel=1e-3)
    assert FrameTransformer.wrap(model).config["in_channels"] == preset.in_channels


def test_the_built_in_models_configuration_is_the_presets() -> None:
    """It is the one checkpoint that is at hand to compare with."""
    written = json.loads((MODEL_DIR / "transformer" / "config.json").read_text())
    assert {name: written[name] for name in PRESETS["tiny"].transformer_config()} == PRESETS[
        "tiny"
    ].transformer_config()


@pytest.mark.parametrize(
    ("pipeline", "task"),
    [
        (SkyReelsV2DiffusionForcingPipeline, "t2v"),
        (SkyReelsV2DiffusionForcingImageToVideoPipeline, "i2v"),
        (SkyReelsV2DiffusionForcingImageToVideoPipeline, "flf2v"),
        (SkyReelsV2DiffusionForcingVideoToVideoPipeline, "v2v"),
        (SkyReelsV2Pipeline, "t2v"),
        (SkyReelsV2ImageToVideoPipeline, "i2v"),
    ],
)
def test_a_custom_folder_has_the_defaults_of_the_call_signature(pipeline: type, task: str) -> None:
    ours = asdict(defaults_for("some/folder", task))
    for name, parameter in inspect.signature(pipeline.__call__).parameters.items():
        if name in ours and parameter.default not in (None, inspect.Parameter.empty):
            theirs = rounded_num_frames(parameter.default) if name == "num_frames" else parameter.default
            assert (ours[name] or 1) == theirs if name == "causal_block_size" else ours[name] == theirs, name
