"""The identity of a checkpoint: 16 hex digits that change when anything that decides pixels changes.

It is the sha256 over the name, size and content of every file that the engine reads: configurations, tokenizer files
and safetensors. A file of up to 64 MiB counts with all of its content. Of a larger one count its first 4 MiB (the
safetensors header with every tensor's name, type, shape and place is there), its last 4 MiB and 64 blocks of 256 KiB
spread evenly between: two trainings differ everywhere, so that is enough to tell them apart, and a 28 GB checkpoint
takes a second. A change of a few bytes inside a large file, made on purpose, can go unseen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

MEBIBYTE = 1024 * 1024
FULL_HASH_BYTES = 64 * MEBIBYTE
EDGE_BYTES = 4 * MEBIBYTE
SAMPLE_BYTES = 256 * 1024
NUM_SAMPLES = 64

COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler", "image_encoder", "image_processor")
MAGNITUDES = "magnitudes.json"
"""The file of `calibrate`, next to model_index.json. It is not part of the fingerprint."""
SUFFIXES = (".json", ".safetensors", ".model", ".txt")


def model_files(folder: Path) -> list[Path]:
    """The files of a diffusers folder that the engine reads, in a fixed order."""
    files = [folder / "model_index.json"]
    for component in COMPONENTS:
        files += sorted(p for p in (folder / component).glob("*") if p.suffix in SUFFIXES and p.is_file())
    return files


def fingerprint(folder: Path) -> str:
    """The fingerprint of the checkpoint in `folder`. Raises OSError when a file cannot be read."""
    total = hashlib.sha256()
    for path in model_files(folder):
        size = path.stat().st_size
        content = hashlib.sha256()
        for block in _blocks(path, size):
            content.update(block)
        total.update(f"{path.relative_to(folder).as_posix()} {size} {content.hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    with open(path, "rb") as handle:
        if size <= FULL_HASH_BYTES:
            while block := handle.read(MEBIBYTE):
                yield block
            return
        yield handle.read(EDGE_BYTES)
        step = (size - 2 * EDGE_BYTES) // NUM_SAMPLES
        for i in range(NUM_SAMPLES):
            handle.seek(EDGE_BYTES + i * step)
            yield handle.read(SAMPLE_BYTES)
        handle.seek(size - EDGE_BYTES)
        yield handle.read(EDGE_BYTES)
