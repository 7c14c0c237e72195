"""The environment variables that travel with a run. Ray's workers have those of their machine, not the driver's."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping

from render_farm.errors import UsageError

CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "HF_TOKEN",
    "HF_ENDPOINT",
)
"""Of object stores and the hub. None is a path, which would mean something else on another machine."""
SETTINGS = "RENDER_FARM_"
_NOT_SETTINGS = ("RENDER_FARM_CONFIG",)
"""A path. The file itself travels with the run."""
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entry point of a Ray Job, whose workers have the job's environment already."""


def carried_environment(
    environment: Mapping[str, str], *, extra: Iterable[str] = (), credentials: bool = True
) -> dict[str, str]:
    """Variables for the workers: settings, the store's credentials (when `credentials`), and `extra`, each `NAME` (its
    value here) or `NAME=VALUE`. Raises `UsageError` for a name that is not set."""
    names = [name for name in environment if name.startswith(SETTINGS) and name not in _NOT_SETTINGS]
    names += [name for name in CREDENTIALS if credentials and environment.get(name)]
    carried = {name: environment[name] for name in names}
    for item in extra:
        name, given, value = item.partition("=")
        if not name or not (given or name in environment):
            raise UsageError(f"--env {item!r}: is not set here", advice="write --env NAME=VALUE, or set it")
        carried[name] = value if given else environment[name]
    return carried


def driver_environment() -> dict[str, str]:
    """Variables that a driver attached to a cluster gives its workers. None inside a Ray Job, which has given them."""
    return {} if _IN_A_JOB in os.environ else carried_environment(os.environ)


def digest_of_environment() -> str:
    """Distinguishes the environments that two drivers give their workers, without revealing them."""
    job = os.environ.get(_IN_A_JOB)
    carried = json.loads(job).get("runtime_env", {}).get("env_vars", {}) if job else carried_environment(os.environ)
    return hashlib.sha256(json.dumps(carried, sort_keys=True).encode()).hexdigest()
