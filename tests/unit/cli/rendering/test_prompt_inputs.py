"""Inputs of the one film of `--prompt`, as its flags name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from render_farm.cli.rendering.prompt_inputs import input_columns
from render_farm.errors import UsageError


@pytest.mark.parametrize("given", [{"image": ""}, {"video": " "}, {"loras": [""]}, {"loras": ["=0.8"]}])
def test_an_input_from_a_variable_that_is_not_set_is_refused(given):
    with pytest.raises(UsageError, match=r"address is empty.*leave the flag out"):
        input_columns(given)


@pytest.mark.parametrize("weight", ["0_8", "nan", "inf", "1e400"])
def test_a_weight_that_is_no_finite_number_is_refused(weight):
    with pytest.raises(UsageError, match=rf"'s={weight}': the weight '{weight}' is not a finite.*give one such as 0.8"):
        input_columns({"loras": [f"s={weight}"]})


def test_steps_are_whole_numbers_in_any_spelling_that_a_cell_may_have():
    for text in ("1000,500", "[1000, 500]", "[1000.0, 500]", " 1e3 ,+500"):
        assert input_columns({"step_list": text})["step_list"] == [1000, 500]


def test_relative_inputs_are_meant_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = input_columns({"image": "take 1: a.png", "last_image": "s3://bucket/b.png", "loras": ["x=y.safetensors=2"]})
    assert found["image"] == str(Path.cwd() / "take 1: a.png") and found["last_image"] == "s3://bucket/b.png"
    assert found["loras"] == [{"path": str(Path.cwd() / "x=y.safetensors"), "weight": 2.0}]
