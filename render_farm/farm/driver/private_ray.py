"""What a private Ray needs from its machine: a short folder for its sockets, and a token of its own, so that it writes
nothing into the home folder. Also the folders of this process that every Ray gets: only that of its code."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import render_farm
from render_farm.errors import UsageError

_TOKEN, _MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"
_LONGEST_SOCKET = 107
"""Bytes of a UNIX socket's path on Linux."""
_SOCKET = "ray/session_2026-01-31_06-00-00_000000_1234567/sockets/plasma_store"
"""The longest that Ray makes in its temporary folder."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_CODE = str(Path(render_farm.__file__).parent.parent)


class OnlyTheCode(list[str]):
    """The folders of the driver that Ray puts first on its workers' module path: the one of this package alone. Ray
    adds the working directory too, where a file `diffusers.py` would be taken for the library."""

    def extend(self, folders: Iterable[str]) -> None:
        """Ray calls it with the script's folder and the working directory."""
        super().extend(folder for folder in folders if folder == _CODE)


def usual_folder() -> str:
    """Where Ray makes its folder by default."""
    return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()


def is_short_enough(folder: str) -> bool:
    """Whether Ray's sockets can be in a temporary folder."""
    return len(os.fsencode(str(Path(folder, _SOCKET)))) <= _LONGEST_SOCKET


def short_folder() -> str | None:
    """A place that is short enough and can be written to; None when there is none."""
    return next((place for place in _SHORT_FOLDERS if os.access(place, os.W_OK | os.X_OK)), None)


@contextlib.contextmanager
def temporary_folder() -> Iterator[dict[str, Any]]:
    """Arguments of `ray.init` for its temporary folder. None are needed where the usual one will do. UsageError when it
    is too long and no other can be written to."""
    usual = usual_folder()
    if is_short_enough(usual):
        yield {}
        return
    place = short_folder()
    if place is None:
        raise UsageError(
            f"the temporary folder {usual} is too long for Ray's sockets ({_LONGEST_SOCKET} bytes is the most)",
            advice="set RAY_TMPDIR to a short folder that can be written to, such as /tmp",
        )
    folder = tempfile.mkdtemp(prefix="rf-", dir=place)
    try:
        yield {"_temp_dir": folder}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """A token for the length of a block. Ray would write one to ~/.ray/auth_token, which need not be writable, and
    which every cluster that is started later would ask for."""
    before = {name: os.environ.get(name) for name in (_TOKEN, _MODE)}
    if before[_TOKEN] is None and (before[_MODE] or "token").lower() == "token":
        os.environ[_TOKEN] = secrets.token_hex(32)
    _read_token_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_token_again()


def _read_token_again() -> None:
    """Ray reads a process's token once. The next cluster that this process uses may have another."""
    raylet = sys.modules.get("ray._raylet")
    if raylet is not None:
        raylet.AuthenticationTokenLoader.instance().reset_cache()
