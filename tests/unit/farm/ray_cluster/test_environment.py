"""The environment that a job takes along."""

from __future__ import annotations

import json

import pytest

from render_farm.errors import UsageError
from render_farm.farm.ray_cluster.environment import carried_environment, digest_of_environment, driver_environment


def test_drivers_with_other_credentials_are_told_apart(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    one = digest_of_environment()
    monkeypatch.setenv("UNRELATED", "x")
    assert digest_of_environment() == one
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "two")
    assert digest_of_environment() != one and "two" not in digest_of_environment()
    # Inside a Ray Job, what it was submitted with counts.
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"env_vars": {"MINE": "1"}}}))
    in_job = digest_of_environment()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    assert digest_of_environment() == in_job and driver_environment() == {}


def test_what_is_taken_along():
    here = {
        "PATH": "/bin",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_PROFILE": "p",
        "RENDER_FARM_DTYPE": "float32",
        "RENDER_FARM_CONFIG": "/a/farm.toml",
        "MINE": "1",
    }
    assert carried_environment(here) == {"AWS_ACCESS_KEY_ID": "k", "RENDER_FARM_DTYPE": "float32"}
    assert carried_environment(here, credentials=False, extra=["MINE", "A=b=c", "E="]) == {
        "RENDER_FARM_DTYPE": "float32",
        "MINE": "1",
        "A": "b=c",
        "E": "",
    }
    with pytest.raises(UsageError, match="NAME=VALUE"):
        carried_environment(here, extra=["OTHER"])
