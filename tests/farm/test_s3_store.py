"""The store's promises on a real S3 server (the same ones on other stores: tests/unit/storage/test_store.py)."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from render_farm.errors import NotFoundError
from render_farm.storage import StoreOptions, open_store, publish
from render_farm.storage.checkpoints import (
    SegmentMeta,
    begin_film,
    load_film,
    load_film_state,
    record_segment,
    save_segment,
    stored_segments,
)
from render_farm.storage.done import verify_done
from render_farm.storage.layout import SEGMENTS, FilmKeys, RunKeys, film_key
from render_farm.storage.lease import acquire, read_lease, this_holder
from render_farm.storage.probe import check_access, create_only_honoured

FILM = film_key("job", "0123456789ab")


@pytest.fixture
def store(s3_uri):
    return open_store(s3_uri)


def test_objects_are_written_replaced_read_listed_and_deleted(store, tmp_path):
    for key in ("a/2", "a/b/1", "ab/1"):
        store.write_bytes(key, b"old")
    store.write_bytes("a/2", b"new!")
    assert (store.read_bytes("a/2"), store.size("a/2"), store.exists("a/2")) == (b"new!", 4, True)
    assert not store.exists("a")
    assert store.list() == ["a/2", "a/b/1", "ab/1"]
    assert store.list("a") == ["a/2", "a/b/1"]
    assert (store.list_folders(), store.list_folders("a"), store.list("none")) == (["a", "ab"], ["b"], [])
    store.delete("a/2")
    store.delete("a/2")
    assert store.list("a") == ["a/b/1"]
    store.delete_tree("a")
    store.delete_tree("a")
    assert store.list() == ["ab/1"]
    for call in (
        lambda: store.read_bytes("no/such"),
        lambda: store.size("no/such"),
        lambda: store.copy("no/such", "b"),
        lambda: store.get_file("no/such", tmp_path / "x"),
    ):
        with pytest.raises(NotFoundError, match="no/such"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_more_than_a_page_of_objects_is_listed_and_deleted(store, monkeypatch):
    call = store._fs.call_s3
    monkeypatch.setattr(
        store._fs, "call_s3", lambda verb, **kw: call(verb, **kw, **({"MaxKeys": 4} if verb.startswith("list") else {}))
    )
    keys = [f"many/{n // 3}/{n:04d}" for n in range(15)]
    for key in keys:
        store.write_bytes(key, b"")
    assert store.list("many") == keys
    assert store.list_folders("many") == ["0", "1", "2", "3", "4"]
    store.delete_tree("many")
    assert store.list() == []


def test_content_types_are_on_the_server_whatever_wrote_the_object(store, s3_env, tmp_path):
    (tmp_path / "v").write_bytes(b"v" * 1000)
    store.put_file(tmp_path / "v", "job/video.mp4")
    store.put_file(tmp_path / "v", "job/poster.jpg")
    store.write_bytes("job/job.json", b"{}")
    store.write_bytes("run/report.html", b"<p>")
    store.create("run/state.json", b"{}")
    store.write_bytes("job/odd", b"", "text/x-odd")
    store.copy("job/odd", "copied/video.mp4")
    store.write_bytes("job/latents.safetensors", b"")
    bucket = store.root_uri.split("/")[2]
    types = {key: s3_env.client().head_object(Bucket=bucket, Key=f"out/{key}")["ContentType"] for key in store.list()}
    assert types == {
        "job/video.mp4": "video/mp4",
        "job/poster.jpg": "image/jpeg",
        "job/job.json": "application/json",
        "run/report.html": "text/html",
        "run/state.json": "application/json",
        "job/odd": "text/x-odd",
        "copied/video.mp4": "video/mp4",
        "job/latents.safetensors": "application/octet-stream",
    }


def test_large_files_go_in_parts_and_come_back_unchanged(s3_uri, s3_env, tmp_path):
    store = open_store(s3_uri, StoreOptions(part_bytes=5 << 20))
    data = np.random.default_rng(0).bytes(23 << 20)
    (tmp_path / "up").write_bytes(data)
    store.put_file(tmp_path / "up", "a/video.mp4")
    store.write_bytes("a/b.json", data)
    assert store.create("a/c.json", data)
    assert not store.create("a/c.json", data[::-1])
    store.get_file("a/video.mp4", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data
    assert store.read_bytes("a/b.json") == data
    bucket = s3_uri.split("/")[2]
    heads = [s3_env.client().head_object(Bucket=bucket, Key=f"out/a/{name}") for name in ("video.mp4", "b.json")]
    assert [head["ContentType"] for head in heads] == ["video/mp4", "application/json"]
    assert all("-" in head["ETag"] for head in heads)  # they were multipart uploads


def test_an_unfinished_upload_is_invisible_and_swept(store, s3_env):
    bucket = store.root_uri.split("/")[2]
    s3_env.client().create_multipart_upload(Bucket=bucket, Key="out/a/video.mp4")
    assert not store.exists("a/video.mp4")
    assert store.sweep("a", older_than_s=1e10) == 0  # it may still be going on
    assert store.sweep("a") == 1  # moto dates every upload 2010
    assert not s3_env.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


RACE = """
import sys
from render_farm.storage import open_store
store = open_store(sys.argv[1])
store.exists("warm-up")
print("ready", flush=True)
sys.stdin.readline()
print(*(n for n in range(40) if store.create(f"race/{n:03d}", sys.argv[2].encode())))
"""


def test_of_two_processes_exactly_one_creates(s3_uri, store):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, s3_uri, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        for name in "ab"
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    wins = {name: racer.communicate(timeout=60)[0].split() for name, racer in zip("ab", racers, strict=True)}
    assert sorted(int(n) for won in wins.values() for n in won) == list(range(40))
    for name, won in wins.items():
        assert all(store.read_bytes(f"race/{int(n):03d}") == name.encode() for n in won)


def test_another_process_sees_what_was_written_at_once(store):
    again = pickle.loads(pickle.dumps(store))
    assert again.list() == []
    assert not again.exists("a")
    store.write_bytes("a", b"1")
    assert (again.exists("a"), again.list(), again.read_bytes("a")) == (True, ["a"], b"1")


def test_probe_and_access_checks_leave_nothing_in_the_bucket(store):
    assert create_only_honoured(store)
    assert all(check.ok for check in check_access(store))
    assert store.list() == []


def test_checkpoints_publishing_and_lease_work_on_s3(store, tmp_path, s3_env):
    begin_film(store, FILM, [f"{number:032x}" for number in range(3)])
    state = load_film_state(store, FILM)
    latents = [np.random.default_rng(n).standard_normal((1, 16, 5, 4, 6), dtype=np.float32) for n in range(3)]
    for segment in latents:
        state = record_segment(store, state, save_segment(store, state, segment, SegmentMeta(attempt="a1")))
    film = load_film(store, FILM)
    assert film.state == state
    assert all(np.array_equal(*pair) for pair in zip(film.latents, latents, strict=True))

    (tmp_path / "video.mp4").write_bytes(b"video")
    (tmp_path / "poster.jpg").write_bytes(b"poster")
    files = {name: tmp_path / name for name in ("video.mp4", "poster.jpg")}
    assert publish.publish(store, FILM, "a1", files, {"prompt": "a fox"}).won
    assert not publish.publish(store, FILM, "a2", files, {"prompt": "a fox"}).won
    store.delete_tree(FilmKeys(film=FILM).folder)
    assert stored_segments(store) == {f"{number:032x}" for number in range(3)}
    store.delete_tree(SEGMENTS)
    assert store.list() == ["job/job.json", "job/poster.jpg", "job/video.mp4"]
    assert verify_done(store, "job") == ()
    bucket = store.root_uri.split("/")[2]
    assert s3_env.client().head_object(Bucket=bucket, Key="out/job/video.mp4")["ContentType"] == "video/mp4"

    handle = acquire(store, "night", this_holder())
    for _ in range(3):
        handle.renew()
    assert len(store.list(RunKeys(run_id="night").leases)) == 2
    handle.release()
    assert read_lease(store, "night").released


def test_existing_objects_are_found_with_few_requests(s3_uri):
    store = open_store(s3_uri)
    there = {f"job-{number:03d}/{name}" for number in range(0, 60, 2) for name in ("job.json", "video.mp4")}
    for key in [*there, "_work/other/1", "zzz"]:
        store.write_bytes(key, b"x")
    asked = [f"job-{number:03d}/{name}" for number in range(60) for name in ("job.json", "video.mp4", "poster.jpg")]
    calls = []
    original = store._call
    store._call = lambda *args, **more: (calls.append(args), original(*args, **more))[1]
    assert store.sizes(asked) == dict.fromkeys(there, 1)
    assert len(calls) <= 8
    assert store.sizes(["nowhere/job.json"]) == {}
    assert store.sizes([]) == {}
