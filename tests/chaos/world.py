"""The world of a chaos run: an S3 server behind a faulty proxy, a Ray of several nodes, and the processes on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.farm import films
from tests.fixtures_s3 import FOREIGN, S3Server, free_port, start_s3_server, stop_s3_server
from tests.s3_proxy import FaultyProxy, proxied

RAY = str(Path(sys.executable).with_name("ray"))
TIMEOUTS = {
    "RENDER_FARM_LEASE_S": "6",
    "RENDER_FARM_HANG_FLOOR_S": "12",
    "RENDER_FARM_FIRST_STEP_FLOOR_S": "240",
    "RENDER_FARM_CLUSTER_PATIENCE_S": "400",
    "RENDER_FARM_PREEMPTION_GRACE_S": "5",
}
"""Shortened, so that a run need not last hours; the first step's stays long, for busy machines."""


@dataclass
class Node:
    """One raylet, started with `ray start`."""

    process: subprocess.Popen

    @property
    def tree(self) -> list[psutil.Process]:
        return descendants(self.process.pid)


@dataclass
class World:
    """See the module. `address` None: every driver starts a private Ray."""

    folder: Path
    server: S3Server
    proxy: FaultyProxy
    environment: dict[str, str]
    address: str | None = None
    nodes: list[Node] = field(default_factory=list)
    driver: subprocess.Popen | None = None
    paused: list[psutil.Process] = field(default_factory=list)

    def start_driver(self, manifest: str, output: str, *, address: str | None = None) -> subprocess.Popen:
        """`render-farm render` on this world, in a process group of its own."""
        arguments = [manifest, "--output", output, "--workers", "2", "--device", "cpu", "--keep-latents", "--json"]
        place = address or self.address
        if place:
            arguments += ["--address", place]
        errors = open(self.folder / "driver.log", "a")  # noqa: SIM115  (the child's)
        return subprocess.Popen(
            films.command("render", *arguments),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,
            env=self.environment,
        )

    def processes(self, name: str) -> list[psutil.Process]:
        """Live processes of the farm whose command line holds `name`, in the order of their ids."""
        roots = [node.process.pid for node in self.nodes] + ([self.driver.pid] if self.driver else [])
        return sorted(
            {process for root in roots for process in descendants(root) if name in _command(process)},
            key=lambda process: process.pid,
        )

    def add_node(self) -> None:
        """One more raylet."""
        assert self.address is not None
        arguments = [RAY, "start", f"--address={self.address}", "--num-cpus=2", "--block", "--disable-usage-stats",
                     f"--node-name=node-{len(self.nodes)}", "--object-store-memory=100000000"]  # fmt: skip
        self.nodes.append(Node(_quiet(arguments, {**self.environment, "RAY_AUTH_MODE": "token"})))

    def thaw(self) -> None:
        """Let stopped processes go on."""
        for process in self.paused:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
        self.paused = []


@contextmanager
def world(folder: Path, *, cluster: bool) -> Iterator[World]:
    """Build a world, and take it down again."""
    with ExitStack() as stack:
        server = start_s3_server()
        stack.callback(stop_s3_server, server)
        proxy = stack.enter_context(proxied(server.endpoint))
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        environment |= {**server.env, "AWS_ENDPOINT_URL": proxy.endpoint, **TIMEOUTS}
        environment |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        built = World(folder=folder, server=server, proxy=proxy, environment=environment)
        stack.callback(_end, built)
        if cluster:
            _start_cluster(built)
        yield built


def _start_cluster(built: World) -> None:
    port = free_port()
    folder = Path("/tmp") / f"ray-chaos-{os.getpid()}"  # sockets need a short path
    built.address = f"127.0.0.1:{port}"
    arguments = [
        RAY, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block",
        "--disable-usage-stats", f"--temp-dir={folder}", "--object-store-memory=100000000", "--node-name=node-0",
    ]  # fmt: skip
    built.nodes.append(Node(_quiet(arguments, built.environment)))

    def answers() -> bool:
        environment = {**built.environment, "RAY_AUTH_MODE": "token"}
        status = [RAY, "status", f"--address={built.address}"]
        return subprocess.run(status, capture_output=True, timeout=200, env=environment).returncode == 0

    films.wait_for(answers, timeout_s=600, what="the Ray cluster's start")
    built.add_node()


def _end(built: World) -> None:
    built.thaw()
    everything = [process for node in built.nodes for process in node.tree]
    if built.driver is not None:
        everything += descendants(built.driver.pid)
    for process in everything:
        kill(process)
    shutil.rmtree(f"/tmp/ray-chaos-{os.getpid()}", ignore_errors=True)


def _quiet(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )


def descendants(pid: int) -> list[psutil.Process]:
    """A process and everything below it, children first."""
    try:
        root = psutil.Process(pid)
        return [*reversed(root.children(recursive=True)), root]
    except psutil.NoSuchProcess:
        return []


def kill(process: psutil.Process) -> None:
    """SIGKILL, unless it is gone."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def wait_gone(processes: list[psutil.Process], timeout_s: float = 30) -> None:
    """Wait until they have ended."""
    stop = time.monotonic() + timeout_s
    while any(_command(process) for process in processes) and time.monotonic() < stop:
        time.sleep(0.1)
