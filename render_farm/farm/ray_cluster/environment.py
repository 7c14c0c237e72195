"""The environment variables that travel with a run. Ray's workers have those of their machine, not the driver's.

They travel as arguments of calls, and never in Ray's runtime environment, which Ray writes into its logs and shows on
its dashboard. Workers get credentials alone. What notifications need stays with the processes that hold the run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
_NOT_SETTINGS = ("RENDER_FARM_CONFIG", "RENDER_FARM_HANDOVER")
"""The first is a path. The file itself travels with the run."""
HANDOVER = "RENDER_FARM_HANDOVER"
"""In a Ray Job: where `submit` left its variables (`driver/handover.py`)."""
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entry point of a Ray Job, whose workers have the job's runtime environment already."""


@dataclass(frozen=True, kw_only=True)
class WorkerEnvironment:
    """What the processes of a farm get."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    digest: str = ""
    """Tells apart the environments of two drivers without revealing them."""

    def apply(self) -> None:
        """Set them in this process, before it looks at a store or loads a library."""
        os.environ.update(self.variables)


def carried_environment(
    environment: Mapping[str, str], *, extra: Iterable[str] = (), credentials: bool = True
) -> dict[str, str]:
    """Variables for the driver of a Ray Job: settings, the store's credentials (when `credentials`), and `extra`, each
    `NAME` (its value here) or `NAME=VALUE`. Raises `UsageError` for a name that is not set."""
    carried = {name: environment[name] for name in environment if name.startswith(SETTINGS)}
    for name in _NOT_SETTINGS:
        carried.pop(name, None)
    carried |= _credentials(environment) if credentials else {}
    for item in extra:
        name, given, value = item.partition("=")
        if not name or not (given or name in environment):
            raise UsageError(f"--env {item!r}: is not set here", advice="write --env NAME=VALUE, or set it")
        carried[name] = value if given else environment[name]
    return carried


def worker_environment(
    environment: Mapping[str, str], received: Mapping[str, str] | None = None, *, credentials: bool = True
) -> WorkerEnvironment:
    """What a driver attached to a cluster gives its workers. Inside a Ray Job that is what came along with the job
    (`received`), and not what the head's machine happens to have."""
    job = environment.get(_IN_A_JOB)
    if received is None:
        variables = _credentials(environment) if credentials and not job else {}
    else:
        variables = {name: value for name, value in received.items() if not name.startswith(SETTINGS)}
    of_job = json.loads(job).get("runtime_env", {}).get("env_vars", {}) if job else {}
    of_job.pop(HANDOVER, None)
    text = json.dumps([variables, of_job], sort_keys=True)
    return WorkerEnvironment(variables=variables, digest=hashlib.sha256(text.encode()).hexdigest())


def _credentials(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in CREDENTIALS if environment.get(name)}
