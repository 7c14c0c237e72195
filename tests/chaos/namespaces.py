"""Namespaces of the suite's own, where they are allowed: file systems, processes and a network that nobody shares.

What is left behind is then its own, and two of them never meet: not at Ray's fixed ports, not in shared memory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys

_UNSHARE = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
_VARIABLE = "CHAOS_OWN_NAMESPACE"
_GET_FLAGS, _SET_FLAGS, _IS_UP = 0x8913, 0x8914, 1
"""SIOCGIFFLAGS, SIOCSIFFLAGS and IFF_UP of Linux."""


def has_namespaces() -> bool:
    """Whether this process has file systems, processes and a network of its own."""
    return os.environ.get(_VARIABLE) == "1"


def move_into_namespaces() -> None:
    """Go on as the first process of new namespaces, with its own shared memory, where that is allowed."""
    if has_namespaces():
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
        _start_loopback()
        socket.sethostname("localhost")  # the only name that leads to an address there
    elif _VARIABLE not in os.environ:
        allowed = shutil.which("unshare") and subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode == 0
        os.environ[_VARIABLE] = "1" if allowed else "0"
        if allowed:
            os.execvp("unshare", [*_UNSHARE, sys.executable, "-m", "tests.chaos", *sys.argv[1:]])


def _start_loopback() -> None:
    """A new network has only that, and it is down."""
    name = b"lo"
    with socket.socket() as any_socket:
        request = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16sh14x", name, 0))
        flags = struct.unpack("16sh14x", request)[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", name, flags | _IS_UP))
