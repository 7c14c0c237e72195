"""The environment that a run takes along."""

from __future__ import annotations

import json

import pytest

from render_farm.errors import UsageError
from render_farm.farm.ray_cluster.environment import carried_environment, worker_environment

KEYS = {"AWS_ACCESS_KEY_ID": "one", "AWS_PROFILE": "p", "RENDER_FARM_NOTIFY_WEBHOOK_SECRET": "s", "PATH": "/bin"}


def test_workers_get_credentials_and_nothing_else():
    assert worker_environment(KEYS).variables == {"AWS_ACCESS_KEY_ID": "one"}
    assert worker_environment(KEYS, credentials=False).variables == {}
    assert "one" not in repr(worker_environment(KEYS))


def test_in_a_ray_job_workers_get_what_came_along_and_not_what_the_head_has():
    job = {**KEYS, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": {"MINE": "1"}}})}
    assert worker_environment(job).variables == {}
    received = {"AWS_ACCESS_KEY_ID": "two", "MINE": "x", "RENDER_FARM_NOTIFY_WEBHOOK_SECRET": "s"}
    assert worker_environment(job, received).variables == {"AWS_ACCESS_KEY_ID": "two", "MINE": "x"}


def test_drivers_with_other_credentials_are_told_apart():
    one = worker_environment(KEYS).digest
    assert worker_environment({**KEYS, "UNRELATED": "x"}).digest == one
    other = worker_environment({**KEYS, "AWS_ACCESS_KEY_ID": "two"}).digest
    assert other != one and "two" not in other
    assert worker_environment(KEYS, credentials=False).digest != one

    def in_job(**variables: str) -> str:
        job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}})}
        return worker_environment(job, {"AWS_ACCESS_KEY_ID": "one"}).digest

    assert in_job(MINE="1") != in_job(MINE="2")
    assert in_job(RENDER_FARM_HANDOVER="gcs://a") == in_job(RENDER_FARM_HANDOVER="gcs://b")


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
