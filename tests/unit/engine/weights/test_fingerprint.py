"""Fingerprints follow the content of a model's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from render_farm.engine.weights.fingerprint import FULL_HASH_BYTES, fingerprint


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_fingerprint_follows_content_not_place(model: Path, saved: Path) -> None:
    first = fingerprint(model)
    assert len(first) == 16
    assert first == fingerprint(saved)
    (model / "README.md").write_text("not read by the engine")
    assert fingerprint(model) == first
    edit(model / "transformer" / "config.json", eps=1e-5)
    second = fingerprint(model)
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert len({first, second, fingerprint(model)}) == 3


def test_large_files_are_sampled(model: Path) -> None:
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    with open(weights, "r+b") as handle:
        handle.truncate(FULL_HASH_BYTES * 2)
    first = fingerprint(model)
    for offset in (100, FULL_HASH_BYTES * 2 - 1):
        with open(weights, "r+b") as handle:
            handle.seek(offset)
            handle.write(b"x")
        second = fingerprint(model)
        assert second != first
        first = second
