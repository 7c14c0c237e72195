"""Temporary folders on a disk without a free byte."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from render_farm.storage.scratch import make_folder


def test_a_folder_whose_owner_cannot_be_noted_is_not_left_behind(tmp_path, monkeypatch):
    def full(path: Path, text: str) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        make_folder()
    assert not list(tmp_path.iterdir())
