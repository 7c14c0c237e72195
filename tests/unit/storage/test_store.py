"""What every store promises, on a local folder and in memory (S3: tests/farm/test_s3_store.py)."""

import pickle
import threading
import time
import uuid

import pytest

from render_farm.errors import NotFoundError, StorageUnavailableError, UsageError
from render_farm.storage import content_type_for, open_store, refuse_for_farm
from render_farm.storage.local import LocalStore
from render_farm.storage.probe import check_access, create_only_honoured


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return open_store(tmp_path / "out" if request.param == "local" else f"memory://{uuid.uuid4().hex}/out")


def test_an_object_is_written_replaced_read_and_deleted(store):
    assert not store.exists("a/x.json")
    store.write_bytes("a/x.json", b"one")
    store.write_bytes("a/x.json", b"two!")
    assert store.read_bytes("a/x.json") == b"two!"
    assert store.size("a/x.json") == 4
    assert store.exists("a/x.json")
    assert not store.exists("a")  # a folder is no object
    store.delete("a/x.json")
    store.delete("a/x.json")
    assert not store.exists("a/x.json")


def test_files_go_up_and_come_down_unchanged(store, tmp_path):
    data = bytes(range(256)) * 20_000
    (tmp_path / "up").write_bytes(data)
    store.put_file(tmp_path / "up", "a/v.mp4")
    store.get_file("a/v.mp4", tmp_path / "new" / "down")
    assert (tmp_path / "new" / "down").read_bytes() == data


def test_creating_an_object_succeeds_once(store):
    assert store.create("c/1.json", b"mine") is True
    assert store.create("c/1.json", b"yours") is False
    assert store.read_bytes("c/1.json") == b"mine"


def test_of_many_threads_one_creates(store):
    wins, barrier = [], threading.Barrier(8)

    def race(name):
        barrier.wait()
        for n in range(20):
            if store.create(f"race/{n}", name.encode()):
                wins.append(n)

    threads = [threading.Thread(target=race, args=(f"t{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(20))


def test_listings_are_sorted_recursive_and_never_stale(store):
    assert store.list() == []
    assert store.list_folders("none") == []
    for key in ("a/2", "a/b/1", "c", "ab/1"):
        store.write_bytes(key, b"")
    assert store.list() == ["a/2", "a/b/1", "ab/1", "c"]
    assert store.list("a") == ["a/2", "a/b/1"]
    assert store.list("a/") == ["a/2", "a/b/1"]
    assert store.list("none") == []
    assert store.list_folders() == ["a", "ab"]
    assert store.list_folders("a") == ["b"]
    store.delete("a/2")
    assert store.list("a") == ["a/b/1"]


def test_a_tree_is_deleted_and_its_neighbours_stay(store):
    for key in ("a/1", "a/b/2", "ab/3"):
        store.write_bytes(key, b"x")
    store.delete_tree("a")
    store.delete_tree("a")
    assert store.list() == ["ab/3"]
    with pytest.raises(ValueError, match="malformed"):
        store.delete_tree("")


def test_a_copy_is_independent_of_its_source(store):
    store.write_bytes("a", b"first")
    store.copy("a", "deep/b")
    store.copy("a", "deep/b")
    store.write_bytes("a", b"second")
    assert store.read_bytes("deep/b") == b"first"
    store.delete("a")
    assert store.read_bytes("deep/b") == b"first"


@pytest.mark.parametrize("verb", ["read", "get", "size", "copy"])
def test_a_missing_object_is_named(store, tmp_path, verb):
    calls = {
        "read": lambda: store.read_bytes("no/such"),
        "get": lambda: store.get_file("no/such", tmp_path / "x"),
        "size": lambda: store.size("no/such"),
        "copy": lambda: store.copy("no/such", "b"),
    }
    with pytest.raises(NotFoundError, match="no/such"):
        calls[verb]()
    assert not (tmp_path / "x").exists()


def test_a_missing_local_file_is_named(store, tmp_path):
    with pytest.raises(NotFoundError, match="nothing-here"):
        store.put_file(tmp_path / "nothing-here", "a")
    assert store.list() == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a/../../b", "a//b", "./a", "a\\b", "a\0", "a/.part-1"])
def test_keys_never_leave_the_root(store, key):
    with pytest.raises(ValueError, match="malformed"):
        store.write_bytes(key, b"")


def test_a_store_travels_by_its_uri(store):
    store.write_bytes("a", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again.read_bytes("a") == b"1"
    assert again.root_uri == store.root_uri
    assert open_store(store.root_uri).uri("a") == store.uri("a")


def test_probe_and_access_leave_nothing_behind(store):
    assert create_only_honoured(store)
    checks = check_access(store)
    assert [(check.name, check.ok) for check in checks] == [
        (name, True) for name in ("write", "read", "list", "delete", "create-only")
    ]
    assert store.list() == []
    assert store.list_folders("_work") == []


def test_a_store_that_looks_first_and_writes_then_does_not_honour_create_only(tmp_path):
    class LooksFirst(LocalStore):
        def create(self, key, data, content_type=None):
            if self.exists(key):
                return False
            time.sleep(0.05)
            self.write_bytes(key, data)
            return True

    store = open_store(tmp_path)
    assert not create_only_honoured(LooksFirst(store.root_uri, store.options))
    assert store.list() == []


def test_an_output_that_is_a_file_is_said_to_be_that(tmp_path):
    (tmp_path / "film.mp4").touch()
    with pytest.raises(StorageUnavailableError, match=r"cannot create .*a file is where a folder is needed"):
        create_only_honoured(open_store(tmp_path / "film.mp4"))


def test_content_types_follow_the_file_extension():
    assert content_type_for("a/video.mp4") == "video/mp4"
    assert content_type_for("poster.JPG") == "image/jpeg"
    assert content_type_for("job.json") == "application/json"
    assert content_type_for("report.html") == "text/html"
    assert content_type_for("latents.safetensors") == "application/octet-stream"


def test_memory_is_refused_for_the_farm():
    with pytest.raises(UsageError, match=r"other processes.*s3://"):
        refuse_for_farm("memory://out")
    refuse_for_farm("s3://bucket/out")
    refuse_for_farm("out")


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "nosuchprotocol://x", "", "s3://b/../x", "file://"])
def test_unusable_uris_say_so(uri):
    with pytest.raises(UsageError):
        open_store(uri)


@pytest.mark.parametrize("uri", ["hdfs://h/x", "zip://a.zip", "tar://x/y", "data://x", "dir://x/y", "generic://a/b"])
def test_file_systems_that_are_no_stores_say_what_would_work(uri):
    with pytest.raises(UsageError, match=rf"{uri}.*give a folder"):
        open_store(uri)


def test_a_relative_folder_below_one_that_was_deleted(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match=r"'out': the current folder was deleted \(give a whole path"):
        open_store("out")


def test_local_uris_are_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("out", tmp_path / "out", f"file://{tmp_path}/out"):
        store = open_store(uri)
        assert isinstance(store, LocalStore)
        assert store.uri("a/b") == str(tmp_path / "out" / "a" / "b")
    assert not (tmp_path / "out").exists()  # opening creates nothing
