"""A local folder under attack: racing processes, SIGKILL in the middle of a write, a full disk, no permission."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from render_farm.errors import StorageUnavailableError
from render_farm.storage import files, open_store
from render_farm.storage.files import PART_PREFIX
from render_farm.storage.probe import check_access


def run_python(program: str, *arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
        **options,
    )


def parts_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(PART_PREFIX)]


RACE = """
import sys
from render_farm.storage import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(*(n for n in range(200) if store.create(f"race/{n:03d}", sys.argv[2].encode())))
"""


@pytest.mark.slow
def test_of_two_processes_exactly_one_creates(tmp_path):
    racers = [run_python(RACE, tmp_path, name, stdin=subprocess.PIPE) for name in "ab"]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    wins = {name: racer.communicate(timeout=60)[0].split() for name, racer in zip("ab", racers, strict=True)}
    assert sorted(int(n) for won in wins.values() for n in won) == list(range(200))
    store = open_store(tmp_path)
    for name, won in wins.items():
        assert all(store.read_bytes(f"race/{int(n):03d}") == name.encode() for n in won)
    assert not parts_below(tmp_path)


HALF = """
import sys, time
from pathlib import Path
from render_farm.storage.files import write_atomically
with write_atomically(Path(sys.argv[1])) as file:
    file.write(b"n" * 500_000)
    file.flush()
    print("half", flush=True)
    time.sleep(60)
"""


def test_a_writer_killed_in_the_middle_leaves_the_old_object_and_sweep_cleans_up(tmp_path):
    store = open_store(tmp_path)
    store.write_bytes("a/x", b"old")
    writer = run_python(HALF, tmp_path / "a" / "x")
    assert writer.stdout.readline() == "half\n"
    assert store.sweep("a") == 0  # its writer lives
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert store.read_bytes("a/x") == b"old"
    assert store.list() == ["a/x"]
    assert len(parts_below(tmp_path)) == 1
    assert store.sweep("") == 1
    assert not parts_below(tmp_path)


FOREVER = """
import sys
from render_farm.storage import open_store
store = open_store(sys.argv[1])
print("go", flush=True)
for n in range(10**9):
    store.write_bytes("x", bytes([n % 256]) * 2_000_000)
"""


@pytest.mark.slow
def test_a_reader_sees_whole_objects_only_whenever_the_writer_is_killed(tmp_path):
    store = open_store(tmp_path)
    store.write_bytes("x", bytes(2_000_000))
    for round_number in range(4):
        writer = run_python(FOREVER, tmp_path)
        assert writer.stdout.readline() == "go\n"
        stop_at = time.monotonic() + 0.05 + 0.05 * round_number
        while time.monotonic() < stop_at:
            data = store.read_bytes("x")
            assert len(data) == 2_000_000
            assert data.count(data[0]) == len(data)
        writer.kill()
        writer.wait()
    data = store.read_bytes("x")
    assert data.count(data[0]) == 2_000_000


FULL = """
import resource, sys
from pathlib import Path
from render_farm.errors import StorageFullError
from render_farm.storage import open_store
store = open_store(sys.argv[1])
store.write_bytes("a/x", b"old")
Path(sys.argv[2]).write_bytes(bytes(3_000_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
for write in (
    lambda: store.write_bytes("a/x", bytes(3_000_000)),
    lambda: store.put_file(sys.argv[2], "a/x"),
    lambda: store.create("a/new", bytes(3_000_000)),
):
    try:
        write()
    except StorageFullError as error:
        print(error)
"""


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path):
    """A limit on the size of files makes real writes fail in the middle, as a full disk does."""
    said, _ = run_python(FULL, tmp_path / "out", tmp_path / "big").communicate(timeout=60)
    assert len(said.splitlines()) == 3
    assert all("free some space" in line for line in said.splitlines())
    assert open_store(tmp_path / "out").read_bytes("a/x") == b"old"
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["x"]


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageUnavailableError, match="file is where a folder"):
        open_store(tmp_path / "out").write_bytes("a/x", b"")
    checks = check_access(open_store(tmp_path / "out"))
    assert [check.ok for check in checks] == [False]
    assert "give another folder" in checks[0].detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageUnavailableError, match="may write"):
        open_store(tmp_path).write_bytes("a/x", b"")


def test_objects_get_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        store = open_store(tmp_path)
        store.write_bytes("x", b"")
        store.create("y", b"")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in "xy"} == {0o644}


def test_without_hard_links_create_and_copy_still_hold(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.os, "link", no_links)
    store = open_store(tmp_path)
    assert store.create("a", b"1") is True
    assert store.create("a", b"2") is False
    store.copy("a", "b")
    assert store.read_bytes("a") == store.read_bytes("b") == b"1"
    assert not parts_below(tmp_path)


@pytest.mark.slow
def test_a_folder_removed_while_someone_writes_into_it_comes_back(tmp_path):
    store = open_store(tmp_path)
    for n in range(50):
        store.write_bytes(f"a/b/{n}", b"")
        store.delete_tree("a")
    store.write_bytes("a/b/last", b"")
    assert store.list() == ["a/b/last"]


def test_pruning_removes_only_folders_that_hold_nothing(tmp_path):
    store = open_store(tmp_path)
    for key in ("a/b/x", "a/c/y", "d/z"):
        store.write_bytes(key, b"")
    for key in ("a/b/x", "d/z"):
        store.delete(key)
    store.prune("a")
    store.prune("absent")
    assert (store.list_folders("a"), store.list_folders()) == (["c"], ["a", "d"])
