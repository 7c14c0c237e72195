"""A machine that cannot do a worker's work is found before a film is tried on it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import pytest

from render_farm.errors import HostUnfitError, StorageError
from render_farm.farm.worker import host_probe
from render_farm.farm.worker.host_probe import probe_host


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_good_machine_passes_in_two_seconds_and_nothing_stays(tmp_path, temporary):
    started_s = time.monotonic()
    probe_host([str(tmp_path / "out")])
    print(f"{time.monotonic() - started_s:.2f} s")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(temporary.iterdir())


def test_a_full_disk_is_named_with_its_place_and_the_room_it_has(temporary, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 3 << 20))
    with pytest.raises(HostUnfitError, match=r"temporary has 3 MiB free, and a worker needs 64 or more.*TMPDIR"):
        probe_host([])
    assert not list(temporary.iterdir())


def test_a_temporary_folder_that_is_gone_is_the_machines_fault(temporary):
    temporary.rmdir()
    with pytest.raises(HostUnfitError, match="nothing can be written to its temporary folder"):
        probe_host([])


def test_a_machine_without_a_working_ffmpeg_is_unfit(tmp_path, temporary, monkeypatch):
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    with pytest.raises(HostUnfitError, match="it cannot encode a video: "):
        probe_host([])


def test_a_store_that_cannot_be_written_is_no_fault_of_the_machine_alone(tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(host_probe, "_STORE_PATIENCE_S", 0.0)
    Path(tmp_path, "out").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        probe_host([str(tmp_path / "out")])
