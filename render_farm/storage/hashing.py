"""sha256 of bytes and files, as lower-case hex."""

from __future__ import annotations

import hashlib
import os


def sha256_bytes(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Reads in blocks, so memory does not grow with the file. OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
