"""Identifies processes, and tells whether one is dead. Sound across restarts, reused process ids and containers."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """A process, world-wide. `host` changes with a reboot and differs between containers of one machine, because a
    process id means nothing across either; `started` (clock ticks since boot) tells two uses of one id apart."""

    host: str
    pid: int
    started: int


@cache
def host_id() -> str:
    """Host name and a digest of the boot and the process-id namespace: two processes with the same one see each
    other's process ids."""
    seen = [socket.gethostname()]
    try:
        seen.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        seen.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # no Linux: the host name alone
        pass
    return f"{seen[0]}/{hashlib.sha256(' '.join(seen).encode()).hexdigest()[:8]}"


def this_process() -> ProcessId:
    return _own(os.getpid())


@cache
def _own(pid: int) -> ProcessId:
    return ProcessId(host=host_id(), pid=pid, started=_started(pid) or 0)


def is_dead(process: ProcessId) -> bool:
    """True only when it is certain: a process of this very host that no longer runs. A process elsewhere is unknown
    (False), and so is one that is only stopped."""
    if process.host != host_id() or process.pid <= 0:
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # alive, someone else's; or the id was reused: the start time decides
    started = _started(process.pid)
    if started is None:
        return _state(process.pid) == "Z"
    return _state(process.pid) == "Z" or (process.started > 0 and started != process.started)


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets


def _state(pid: int) -> str:
    """`R`, `S`, `T`, `Z` (ended, not yet collected by its parent)... or "" when unknown."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def _started(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else None
