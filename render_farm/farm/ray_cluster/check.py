"""Checks that every machine of a cluster has the same software and storage, for `doctor --address`.

Ray's workers have the environment and disks of their machine, not the driver's. A store that opens here may be closed
there, and a folder here may be another folder there. So each machine reads an object of the driver, and the driver
finds one of each machine.
"""

from __future__ import annotations

import hashlib
import platform
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import render_farm
from render_farm.errors import RenderFarmError
from render_farm.farm.ray_cluster.environment import WorkerEnvironment
from render_farm.farm.ray_cluster.nodes import cluster_nodes
from render_farm.storage.layout import WORK
from render_farm.storage.open import open_store
from render_farm.storage.probe import check_access

_ANSWER_WITHIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class MachineReport:
    """The answer of one machine of the cluster."""

    host: str
    problems: tuple[str, ...]
    num_gpus: int = 0
    has_gpu_driver: bool = False
    """It has `nvidia-smi`."""

    @property
    def ok(self) -> bool:
        return not self.problems


def check_machines(output: str | None, environment: WorkerEnvironment) -> list[MachineReport]:
    """Ask every machine of the cluster that this process is connected to, with the `environment` that workers get.
    Writes small objects to `output`, where films will go, and removes them. None skips storage. StorageError passes if
    this machine cannot use it."""
    nodes = cluster_nodes()
    token, folder = secrets.token_hex(16), f"{WORK}/probe-{secrets.token_hex(8)}"
    if output is None:
        return _ask(nodes, None, folder, token, environment)
    store = open_store(output)
    try:
        store.write_bytes(f"{folder}/driver", token.encode())
        reports = _ask(nodes, output, folder, token, environment)
        written = set(store.list(folder))
        return [_seen_from_here(node, report, written, folder) for node, report in zip(nodes, reports, strict=True)]
    finally:
        store.delete_tree(folder)


def _ask(
    nodes: Sequence[dict[str, Any]], output: str | None, folder: str, token: str, environment: WorkerEnvironment
) -> list[MachineReport]:
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_examine)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            output, f"{folder}/{node['NodeID']}", f"{folder}/driver", token, software(), environment
        )
        for node in nodes
    ]
    ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_WITHIN_S)
    return [_answer(node, reference) for node, reference in zip(nodes, asked, strict=True)]


def _answer(node: dict[str, Any], reference: Any) -> MachineReport:
    host, num_gpus = str(node["NodeName"]), int(node["Resources"].get("GPU", 0))
    try:
        problems, has_driver = ray.get(reference, timeout=0.1)
    except ray.exceptions.GetTimeoutError:
        problems, has_driver = (f"does not answer within {_ANSWER_WITHIN_S:g} s",), False
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        problems, has_driver = (f"cannot run render_farm: {lines[-1].strip()[:300] if lines else error!r}",), False
    return MachineReport(host=host, problems=problems, num_gpus=num_gpus, has_gpu_driver=has_driver)


def _seen_from_here(node: dict[str, Any], report: MachineReport, written: set[str], folder: str) -> MachineReport:
    if not report.ok or f"{folder}/{node['NodeID']}" in written:
        return report
    problem = "what it writes to the output cannot be seen from here: its folder is not shared"
    return MachineReport(
        host=report.host, problems=(problem,), num_gpus=report.num_gpus, has_gpu_driver=report.has_gpu_driver
    )


def software() -> str:
    """The version of render_farm here, with a digest of its code. Two checkouts can have the same version and different
    code, because the version of an editable install is that of the commit it was made at."""
    root, digest = Path(render_farm.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return f"{render_farm.__version__} (code {digest.hexdigest()[:12]})"


def _examine(
    output: str | None, mine: str, drivers: str, token: str, here: str, environment: WorkerEnvironment
) -> tuple[tuple[str, ...], bool]:
    """Runs on a machine of the cluster. Returns its problems, and whether it has a GPU driver."""
    environment.apply()
    problems = []
    if software().partition("(")[2] != here.partition("(")[2]:
        problems.append(f"has render_farm {software()}, and this machine {here}")
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        problems.append(f"has no ffmpeg: {error}")
    if output is not None:
        problems += _storage_problems(output, mine, drivers, token)
    return tuple(problems), shutil.which("nvidia-smi") is not None


def _storage_problems(output: str, mine: str, drivers: str, token: str) -> list[str]:
    store = open_store(output)
    failed = [check for check in check_access(store) if not check.ok and check.name != "create-only"]
    if failed:
        return [f"cannot {check.name} at {output}: {check.detail}" for check in failed]
    try:
        if store.read_bytes(drivers) != token.encode():
            return [f"reads other bytes at {output} than were written here"]
        store.write_bytes(mine, platform.node().encode())
    except RenderFarmError as error:
        return [f"does not see at {output} what was written here: {error.message}"]
    return []
