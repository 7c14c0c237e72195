"""A one-node Ray cluster, and Ray's own command line."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.films import RAY


@dataclass(frozen=True, kw_only=True)
class RayHead:
    """A one-node cluster with four CPU slots, whose processes have no credentials."""

    address: str
    job_server: str
    folder: Path
    """Its sessions, with their logs."""


def ray_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray ...` with the token that the cluster asks for."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    return subprocess.run([RAY, *arguments], capture_output=True, text=True, timeout=60, env=environment)
