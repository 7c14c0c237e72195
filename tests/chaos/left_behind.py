"""What a run may not leave on the machine: processes, listening ports, shared memory, temporary files."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.kills import COORDINATOR, TEXT_WORKER, WORKER
from tests.chaos.namespaces import has_namespaces
from tests.chaos.processes import command_of, descendants
from tests.chaos.world import NUM_WORKERS, World

_WITHIN_S = 60
_SHARED_MEMORY = Path("/dev/shm")
_OF_RAY = ("ray::", "raylet", "gcs_server", "default_worker.py", "/ray/")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What lay there before the run."""

    files: frozenset[str]
    shared: frozenset[str]
    children: frozenset[int]

    @classmethod
    def now(cls, world: World) -> Machine:
        children = frozenset(process.pid for process in psutil.Process().children())
        files = frozenset[str]().union(*map(_names, world.disks))
        return cls(files=files, shared=_names(_SHARED_MEMORY), children=children)


def what_is_left(world: World, before: Machine) -> list[str]:
    """Every kind of thing that is still there a minute after the run."""
    stop = time.monotonic() + _WITHIN_S
    while (found := _look(world, before)) and time.monotonic() < stop:
        time.sleep(1)
    return found


def _look(world: World, before: Machine) -> list[str]:
    assert world.driver is not None
    found = [f"no_process_is_left_behind: {_say(process)}" for process in _processes(world, before)]
    found += [f"no_port_is_left_behind: {where}" for where in _ports(world)]
    now = Machine.now(world)
    # A worker that stays up for the next run keeps no film; Ray's own files lie elsewhere.
    found += [f"no_temporary_file_is_left_behind: {name}" for name in now.files - before.files]
    if has_namespaces():  # else others use it, too
        found += [f"no_shared_memory_is_left_behind: {name}" for name in now.shared - before.shared]
    return found


def _processes(world: World, before: Machine) -> list[psutil.Process]:
    """Of a driver that has ended, of the farm beyond what waits for the next run, and what has lost its Ray."""
    driver = world.driver
    left = descendants(driver.pid) if driver is not None and command_of_pid(driver.pid) else []
    for name, most in ((WORKER, NUM_WORKERS), (COORDINATOR, 1), (TEXT_WORKER, 0)):
        left += world.processes(name)[most:]
    if os.getpid() == 1:  # whatever lost its parent is a child of this process
        known = before.children | {process.pid for node in world.nodes for process in node.tree}
        left += [
            process
            for process in psutil.Process().children()
            if process.pid not in known and any(sign in command_of(process) for sign in _OF_RAY)
        ]
    return left


def _ports(world: World) -> list[str]:
    """Listening sockets of the command, or of what it started, once it has ended."""
    assert world.driver is not None
    pids = {process.pid for process in descendants(world.driver.pid)}
    return [
        f"{c.laddr.ip}:{c.laddr.port} of process {c.pid}"
        for c in psutil.net_connections(kind="tcp")
        if c.status == psutil.CONN_LISTEN and c.pid in pids
    ]


def command_of_pid(pid: int) -> str:
    try:
        return command_of(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return ""


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


def _say(process: psutil.Process) -> str:
    return f"{process.pid} {command_of(process)[:80]}"
