"""Whole files or none, on a local disk: a temporary sibling, fsync, rename.

A writer that is killed leaves its temporary file (`.part-...`), never half a target; `sweep_parts` removes what the
dead left. Keys starting with `.part-` are never listed or read as objects.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from render_farm.errors import NotFoundError
from render_farm.storage.process import ProcessId, host_id, is_dead, this_process

PART_PREFIX = ".part-"


def part_path(target: Path) -> Path:
    """A fresh temporary name in the target's folder. It names this process, so that `sweep_parts` can tell whether
    its writer still lives."""
    me = this_process()
    return target.with_name(f"{PART_PREFIX}{_host_digest()}-{me.pid}-{me.started}-{secrets.token_hex(4)}")


@contextmanager
def write_atomically(target: Path) -> Iterator[BinaryIO]:
    """A file to fill, here or by its `name`. When the block ends well, its content is on disk under `target`,
    replacing what was there; when it raises, nothing has changed and the temporary file is gone. Missing parent
    folders are made.

    OSError (ENOSPC among them) passes through from any step.
    """
    part, file = _open_part(target)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        sync_folder(target.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def create_exclusively(target: Path, data: bytes) -> bool:
    """Put a complete file under `target` unless something is there: True if this call put it. Never two winners,
    between processes and over NFS; nobody sees part of it (except on file systems without hard links, where the name
    appears before its content).
    """
    part, file = _open_part(target)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, target)
        except FileExistsError:
            # Over NFS the answer to a link that worked can be lost, and its repetition fails: the count tells.
            if part.stat().st_nlink != 2:
                return False
        except OSError:
            if target.exists():
                return False
            return _create_without_links(target, data)
        sync_folder(target.parent)
        return True
    finally:
        with suppress(OSError):
            part.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a complete copy of `source`, atomically. Shares the blocks when the file system can."""
    part = part_path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, part)
    except FileNotFoundError:
        raise
    except OSError:
        with open(source, "rb") as reader, write_atomically(target) as writer:
            copy_stream(reader, writer)
        return
    try:
        part.replace(target)  # leaves `part` when both already are the same file
        sync_folder(target.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def copy_stream(reader: BinaryIO, writer: BinaryIO, block_bytes: int = 1 << 20) -> None:
    while block := reader.read(block_bytes):
        writer.write(block)


def sweep_parts(folder: Path, older_than_s: float) -> int:
    """Remove temporary files below `folder` whose writer is a dead process of this host, or that nobody has written
    to for `older_than_s`. Returns how many."""
    num_removed = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if name.startswith(PART_PREFIX) and (_writer_is_dead(name) or _age_s(path) > older_than_s):
                with suppress(FileNotFoundError):
                    path.unlink()
                    num_removed += 1
    return num_removed


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the file system can be asked to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse to sync folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_part(target: Path) -> tuple[Path, BinaryIO]:
    for last_try in (False, False, True):
        part = part_path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Not mkstemp: finished objects get the permissions of the umask, not the owner's alone.
            return part, open(part, "xb")
        except FileNotFoundError:  # the folder was just removed by someone who cleans up
            if last_try:
                raise
    raise AssertionError("unreachable")


def _create_without_links(target: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            target.unlink()
        raise
    return True


def _host_digest() -> str:
    return hashlib.sha256(host_id().encode()).hexdigest()[:8]


def _writer_is_dead(name: str) -> bool:
    fields = name.removeprefix(PART_PREFIX).split("-")
    if len(fields) != 4 or fields[0] != _host_digest() or not (fields[1].isdigit() and fields[2].isdigit()):
        return False
    return is_dead(ProcessId(host=host_id(), pid=int(fields[1]), started=int(fields[2])))


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def open_local(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a local file that is to be uploaded, for reading. NotFoundError when it cannot be."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise NotFoundError(f"cannot upload {os.fspath(path)}: {error.strerror or error}") from error
