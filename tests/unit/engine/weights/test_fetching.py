"""Files of a model from a store: several at a time, resumed, and checked."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from render_farm.engine.weights import fetching
from render_farm.engine.weights.fetching import fetch_files
from render_farm.errors import ModelError

FILES = {f"transformer/{number}.safetensors": bytes([number]) * (1000 + number) for number in range(6)}
SIZES = {path: len(content) for path, content in FILES.items()}
SUMS = {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}


class Remote:
    """Files by path. `fails_after` blocks it is out of reach; `damages` says which answers are wrong."""

    def __init__(self, fails_after: int = 1000, damages: str = "") -> None:
        self.fails_after, self.damages = fails_after, damages
        self.asked: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def info(self, path: str) -> dict[str, int]:
        return {"size": SIZES[path.removeprefix("root/")]}

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        with self._lock:
            self.asked.append((path, start, end))
            if len(self.asked) > self.fails_after:
                raise ConnectionError("out of reach")
        content = FILES[path.removeprefix("root/")][start:end]
        return bytes(len(content)) if self.damages and path.endswith(self.damages) else content


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_BLOCK_BYTES", 300)


def fetch(remote: Any, folder: Path, **options: Any) -> None:
    fetch_files(remote, "root", SIZES, folder, sha256=SUMS, **options)


def test_what_has_arrived_is_not_fetched_again(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        fetch(Remote(fails_after=10), tmp_path)
    there = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert there >= 9 * 300 - 200
    arrived: list[int] = []
    fetch(Remote(), tmp_path, on_bytes=arrived.append)
    assert {path: (tmp_path / path).read_bytes() for path in FILES} == FILES
    assert sum(arrived) == sum(SIZES.values()) - there
    assert not list(tmp_path.rglob("*.part"))
    again = Remote()
    fetch(again, tmp_path)
    assert again.asked == []


def test_four_files_are_on_their_way_at_a_time(tmp_path: Path) -> None:
    meeting = threading.Barrier(4, timeout=20)

    class Meeting(Remote):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            if start == 0 and path < "root/transformer/4":
                meeting.wait()
            return super().cat_file(path, start, end)

    fetch(Meeting(), tmp_path)
    assert {path: (tmp_path / path).read_bytes() for path in FILES} == FILES


def test_a_damaged_file_is_fetched_once_more_and_then_refused(tmp_path: Path) -> None:
    remote = Remote(damages="3.safetensors")
    with pytest.raises(ModelError, match=r"transformer/3.safetensors arrives damaged"):
        fetch(remote, tmp_path)
    assert sum(path.endswith("3.safetensors") and start == 0 for path, start, _ in remote.asked) == 2
    assert not (tmp_path / "transformer/3.safetensors").exists()
    (tmp_path / "transformer/3.safetensors.part").write_bytes(b"x" * 500)
    fetch(Remote(), tmp_path)
    assert (tmp_path / "transformer/3.safetensors").read_bytes() == FILES["transformer/3.safetensors"]
