"""From `submit` to its job: variables, secrets among them, that Ray must neither show nor log.

Everything that is given with a Ray Job stands on the dashboard and in logs of every machine. So the variables are left
with the cluster's head, where packages of jobs are, under a name that nobody can guess. The job's driver takes them
from there, once, and hands credentials to its workers in calls. No node writes them to a file.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

from render_farm.errors import UsageError
from render_farm.farm.ray_cluster.environment import HANDOVER

_received: dict[str, str] | None = None


def leave(client: Any, variables: Mapping[str, str]) -> dict[str, str]:
    """Leave `variables` with the cluster of a `JobSubmissionClient`. Returns what the job must have in its environment
    to find them. RuntimeError when the cluster refuses. Ray drops what no job has taken within ten minutes."""
    if not variables:
        return {}
    name = f"_ray_pkg_{secrets.token_hex(16)}.zip"
    answer = client._do_request("PUT", f"/api/packages/gcs/{name}", data=json.dumps({"variables": variables}).encode())
    if answer.status_code != 200:
        client._raise_error(answer)
    client._package_exists(f"gcs://{name}")  # this starts the ten minutes
    return {HANDOVER: f"gcs://{name}"}


def take() -> None:
    """Set the variables that `submit` left for this process, if it is the driver of a job. UsageError when they are
    gone."""
    global _received
    place = os.environ.pop(HANDOVER, None)
    if place is None:
        return
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of a compiled module

    client = GcsClient(address=os.environ["RAY_ADDRESS"])
    content = client.internal_kv_get(place.encode(), None)
    client.internal_kv_del(place.encode(), False, None)
    if content is None:
        raise UsageError(
            "the variables that `submit` sent are no longer there",
            advice="submit the run again; a job must start within the 10 minutes (or "
            "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S on the head) for which Ray keeps them",
        )
    _received = json.loads(content)["variables"]
    os.environ.update(_received)


def received() -> Mapping[str, str] | None:
    """What `take` set. None where nothing came along."""
    return _received
