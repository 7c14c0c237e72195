"""Copy the files of a model from a store to a folder: several at a time, in blocks, resumed where they broke off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from render_farm.errors import ModelError

AT_ONCE = 4
_BLOCK_BYTES = 32 << 20


class FileChanged(OSError):
    """A file is not as large as its store said when it was listed."""


OnBytes = Callable[[int], None]
"""Called with the size of each block that has arrived, in the threads that fetch."""


def fetch_files(
    filesystem: Any,
    root: str,
    sizes: Mapping[str, int],
    folder: Path,
    *,
    sha256: Mapping[str, str],
    on_bytes: OnBytes | None = None,
) -> None:
    """Have the files `sizes` (paths below `root`, bytes) whole in `folder`, checked where `sha256` has their sum.

    Raises `ModelError` for a file that arrives damaged twice, and `FileChanged`. What the store or the disk raises
    passes.
    """

    def fetch(path: str) -> None:
        target = folder / path
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        for _ in range(2):
            digest = _complete(filesystem, f"{root}/{path}", sizes[path], part, on_bytes)
            if sha256.get(path, digest) == digest:
                part.rename(target)
                return
            part.unlink()
        raise ModelError(
            f"{path} arrives damaged: its checksum is not the one in checksums.json",
            advice="pull the model again (render-farm models pull)",
        )

    _each(fetch, sizes)


def _complete(filesystem: Any, path: str, size: int, part: Path, on_bytes: OnBytes | None) -> str:
    """Append to `part` what it lacks. Returns the sha256 of all of it."""
    digest = hashlib.sha256()
    with open(part, "a+b") as handle:
        handle.seek(0)
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
        while (have := handle.tell()) < size:
            block = filesystem.cat_file(path, start=have, end=min(have + _BLOCK_BYTES, size))
            if not block:
                break
            handle.write(block)
            digest.update(block)
            if on_bytes is not None:
                on_bytes(len(block))
    if have != size or filesystem.info(path)["size"] != size:
        raise FileChanged(f"{path} has not the size that its store said: it has changed")
    return digest.hexdigest()


def _each(fetch: Callable[[str], None], paths: Iterable[str]) -> None:
    """The first failure passes. Files that are under way are completed, the others are not begun."""
    with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="fetch") as threads:
        futures = [threads.submit(fetch, path) for path in paths]
        try:
            for future in futures:
                future.result()
        except BaseException:
            threads.shutdown(wait=True, cancel_futures=True)
            raise
