"""A private Ray's folder and token, and what its workers get of the driver's folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import render_farm
from render_farm.errors import UsageError
from render_farm.farm.driver import private_ray
from render_farm.farm.driver.private_ray import OnlyTheCode, own_token, temporary_folder


def test_a_long_temporary_folder_gives_way_to_a_short_one(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 112)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with temporary_folder() as chosen:
        folder = Path(chosen["_temp_dir"])
        assert folder.is_dir()
        assert private_ray.is_short_enough(str(folder))
    assert not folder.exists()
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    with temporary_folder() as chosen:
        assert chosen == {}


def test_without_any_short_folder_it_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 112)))
    monkeypatch.setattr(private_ray, "_SHORT_FOLDERS", ())
    with pytest.raises(UsageError, match="set RAY_TMPDIR to a short folder"), temporary_folder():
        pass


@pytest.mark.parametrize(
    ("given", "is_set"),
    [
        ({}, True),
        ({"RAY_AUTH_MODE": "token"}, True),
        ({"RAY_AUTH_MODE": "disabled"}, False),
        ({"RAY_AUTH_TOKEN": "mine"}, False),
    ],
)
def test_a_private_ray_has_a_token_of_its_own(monkeypatch, given, is_set):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with own_token():
        token = os.environ.get("RAY_AUTH_TOKEN")
        assert (token is not None and len(token) == 64) is is_set
        os.environ["RAY_AUTH_MODE"] = "token"  # as Ray does
    assert {name: os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")} == {
        "RAY_AUTH_TOKEN": given.get("RAY_AUTH_TOKEN"),
        "RAY_AUTH_MODE": given.get("RAY_AUTH_MODE"),
    }


def test_workers_get_the_folder_of_the_code_and_no_other():
    code = str(Path(render_farm.__file__).parent.parent)
    folders = OnlyTheCode()
    folders.extend(["/somewhere/with/diffusers", code])
    assert folders == [code]
