"""The world of chaos runs: an S3 server behind a faulty proxy, a Ray of two nodes, a small disk for temporary files,
the processes on it. One world serves many runs; what a fault ended is started anew."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import psutil

from tests.chaos.drivers import Driver, ForkedDriver, FreshDriver
from tests.chaos.namespaces import has_namespaces
from tests.chaos.processes import command_of, descendants, kill
from tests.helpers import films
from tests.helpers.fixtures_s3 import FOREIGN, S3Server, free_port, start_s3_server, stop_s3_server
from tests.helpers.s3_proxy import FaultyProxy, proxied

RAY = str(Path(sys.executable).with_name("ray"))
NUM_WORKERS = 2
SETTINGS = {
    "RENDER_FARM_LEASE_S": "6",
    "RENDER_FARM_CLUSTER_PATIENCE_S": "400",
    "RENDER_FARM_PREEMPTION_GRACE_S": "5",
    "RENDER_FARM_KEEP_WORKERS_S": "3600",
    "RENDER_FARM_HOST_FAULTS": "1000",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "10",
}
"""Shortened, so that a run need not last hours. How long a step may take stays long, for busy machines: a fresh worker
of one was ended before it had imported torch. Workers stay up between runs, because importing torch is most of what a
short run costs, and no host is quarantined for what is done to it."""
_DISK_BYTES = 128 << 20
"""A worker starts only where 64 MiB are free."""


class Place(StrEnum):
    """What Ray the runs are on. In each, a worker has one CPU and so computes with one thread, as the engine beside
    them does; a render group needs its workers on one node."""

    PRIVATE = "every driver starts its own"
    TWO_NODES = "two nodes of one CPU each"
    TWO_NODES_WITH_MEMORY = "the same, with Ray's memory monitor, and memory that can be full"
    ONE_NODE = "one node of two CPUs"
    PRIVATE_WITH_A_CLOCK = "every driver starts its own, with a wall clock that can be set"


@dataclass
class Node:
    """One raylet, started with `ray start`."""

    name: str
    process: subprocess.Popen

    @property
    def is_up(self) -> bool:
        return self.process.poll() is None

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
    disks: list[Path]
    """Where temporary files of the farm go: the second node's, and everybody else's before it. Small file systems of
    their own where this process may mount some."""
    nan: Path
    """While it is there, the next window that a worker completes is not finite, and the worker removes it."""
    memory: Path | None = None
    """What everybody here reads as /proc/meminfo, where that can be changed."""
    clock: Path | None = None
    """Holds by how many seconds the farm's wall clock is off, where that can be set."""
    address: str | None = None
    nodes: list[Node] = field(default_factory=list)
    driver: Driver | None = None
    paused: list[psutil.Process] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def is_up(self) -> bool:
        """Whether its Ray, if it has one, has survived so far."""
        return not self.nodes or self.nodes[0].is_up

    def start_driver(
        self,
        manifest: str,
        output: str,
        *,
        options: tuple[str, ...],
        address: str | None,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Driver:
        """`render-farm render` on the Ray at `address` (None: a private one)."""
        arguments = [manifest, "--output", output, "--workers", str(NUM_WORKERS), "--device", "cpu"]
        arguments += ["--keep-latents", "--json", "--address", address or "local", *options]
        files = self.folder / f"driver-{next(self._numbers)}.out", self.folder / "driver.log"
        kind = FreshDriver if self.clock else ForkedDriver
        return kind(arguments, {**self.environment, **settings}, *files)

    def processes(self, name: str) -> list[psutil.Process]:
        """Live processes of the farm whose command line holds `name`, in the order of their ids."""
        roots = [node.process.pid for node in self.nodes] + ([self.driver.pid] if self.driver else [])
        return sorted(
            {process for root in roots for process in descendants(root) if name in command_of(process)},
            key=lambda process: process.pid,
        )

    def add_node(self) -> None:
        """One more raylet."""
        assert self.address is not None
        name = f"node-{next(self._numbers) + 1}"
        arguments = [RAY, "start", f"--address={self.address}", "--num-cpus=1", "--block", "--disable-usage-stats",
                     "--node-ip-address=127.0.0.1", f"--node-name={name}",
                     "--object-store-memory=100000000"]  # fmt: skip
        environment = {**self.environment, "RAY_AUTH_MODE": "token", "TMPDIR": str(self.disks[1])}
        self.nodes.append(Node(name, _in_background(arguments, environment, self.folder)))

    def set_clock(self, seconds: int) -> None:
        """Set the farm's wall clock `seconds` off from now on."""
        assert self.clock is not None
        with self.clock.open("r+b", buffering=0) as file:  # never empty: every process of the farm has it mapped
            file.write(struct.pack("q", seconds))

    def calm(self) -> None:
        """End every trouble that is still going on."""
        self.thaw()
        self.proxy.storm = None
        self.proxy.speak.set()
        self.proxy.latency, self.proxy.is_expired = None, False
        self.empty_disks()
        self.nan.unlink(missing_ok=True)

    def thaw(self) -> None:
        """Let stopped processes go on."""
        for process in self.paused:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
        self.paused = []

    def fill_disks(self, first: int = 0) -> None:
        """Leave no byte free on the disks of temporary files from `first` on."""
        for disk in self.disks[first:]:
            with open(disk / "full", "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))

    def empty_disks(self) -> None:
        """The inverse of `fill_disks`."""
        for disk in self.disks:
            (disk / "full").unlink(missing_ok=True)

    def set_memory(self, *, full: bool) -> None:
        """Have all of the machine's memory in use, as everybody here sees it, or none of it."""
        assert self.memory is not None
        total = int(re.search(r"MemTotal: +(\d+)", self.memory.read_text())[1])  # type: ignore[index]
        free = total // 50 if full else total
        text = re.sub(r"(Mem(?:Free|Available): +)\d+", rf"\g<1>{free}", self.memory.read_text())
        with self.memory.open("r+") as file:  # in one write, for it is read at any time
            file.write(text)
            file.truncate()


@contextmanager
def world(folder: Path, place: Place) -> Iterator[World]:
    """Build a world, and take it down again. A wall clock of its own needs a C compiler."""
    with ExitStack() as stack:
        server = start_s3_server()
        stack.callback(stop_s3_server, server)
        proxy = stack.enter_context(proxied(server.endpoint))
        disks = [Path(tempfile.mkdtemp(dir=folder, prefix="disk-")) for _ in range(2)]
        for disk in disks if has_namespaces() else ():
            _mount(stack, "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(disk))
        ray_folder = Path(tempfile.mkdtemp(prefix="ray-chaos-", dir="/tmp"))  # sockets need a short path
        stack.callback(shutil.rmtree, ray_folder, ignore_errors=True)
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        environment |= {**server.env, "AWS_ENDPOINT_URL": proxy.endpoint, **SETTINGS}
        environment |= {"RAY_memory_monitor_refresh_ms": "0"}  # it looks at the whole machine, and others are on it
        environment |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        environment |= {"RAY_agent_register_timeout_ms": "300000"}  # a busy machine takes longer than the usual 30 s
        environment |= {"TMPDIR": str(disks[0]), "RAY_TMPDIR": str(ray_folder)}
        preload = str(Path(__file__).with_name("preload"))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (preload, environment.get("PYTHONPATH"))))
        environment["CHAOS_NAN_FILE"] = str(folder / "nan")
        environment |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "torchinductor")}
        built = World(
            folder=folder, server=server, proxy=proxy, environment=environment, disks=disks, nan=folder / "nan"
        )
        if place is Place.TWO_NODES_WITH_MEMORY:
            _add_memory(built, stack)
        if place is Place.PRIVATE_WITH_A_CLOCK:
            _add_clock(built)
        stack.callback(_end, built)
        if place is Place.ONE_NODE:
            _start_cluster(built, ray_folder, num_cpus=2)
        elif place in (Place.TWO_NODES, Place.TWO_NODES_WITH_MEMORY):
            _start_cluster(built, ray_folder, num_cpus=1)
            built.add_node()
            _wait_for_node(built, 2)
        yield built


def _mount(stack: ExitStack, *arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", arguments[-1]], check=False)


def _add_memory(built: World, stack: ExitStack) -> None:
    """Ray's monitor reads how full the memory is in /proc/meminfo."""
    built.memory = built.folder / "meminfo"
    built.memory.write_text(Path("/proc/meminfo").read_text())
    built.set_memory(full=False)
    _mount(stack, "--bind", str(built.memory), "/proc/meminfo")
    built.environment |= {"RAY_memory_monitor_refresh_ms": "100"}


def _add_clock(built: World) -> None:
    library = built.folder / "clock_shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True)
    built.clock = built.folder / "clock"
    built.clock.write_bytes(struct.pack("q", 0))
    built.environment |= {"LD_PRELOAD": str(library), "CHAOS_CLOCK_FILE": str(built.clock)}


def _start_cluster(built: World, ray_folder: Path, *, num_cpus: int) -> None:
    port = free_port()
    built.address = f"127.0.0.1:{port}"
    arguments = [
        RAY, "start", "--head", f"--port={port}", f"--num-cpus={num_cpus}", "--include-dashboard=false", "--block",
        "--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--temp-dir={ray_folder}",
        "--object-store-memory=100000000", "--node-name=node-0",
    ]  # fmt: skip
    built.nodes.append(Node("node-0", _in_background(arguments, built.environment, built.folder)))

    _wait_for_node(built, 1)


def _wait_for_node(built: World, number: int) -> None:
    """Until the cluster knows `number` nodes. Ray gives up a node that takes too long to start."""
    status = [RAY, "status", f"--address={built.address}"]
    environment = {**built.environment, "RAY_AUTH_MODE": "token"}

    def is_there() -> bool:
        if not all(node.is_up for node in built.nodes):
            raise RuntimeError("Ray did not start here, see its log; is the machine too busy?")
        answer = subprocess.run(status, capture_output=True, text=True, timeout=200, env=environment)
        return answer.stdout.count(" node_") >= number

    films.wait_for(is_there, timeout_s=600, what=f"node {number} of the Ray cluster")


def _end(built: World) -> None:
    built.calm()
    everything = [process for node in built.nodes for process in node.tree]
    if built.driver is not None:
        everything += descendants(built.driver.pid)
    for process in everything:
        kill(process)


def _in_background(arguments: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen:
    with open(folder / "ray.log", "a") as log:
        return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, process_group=0)
