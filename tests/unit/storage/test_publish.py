"""The commit protocol: a crash between every two steps, racing attempts, changed jobs, stores without create-only."""

import json
import logging

import pytest

from render_farm.errors import CorruptCheckpointError, NotFoundError
from render_farm.storage import open_store, publish
from render_farm.storage.done import is_whole, read_done, verify_done
from render_farm.storage.layout import FilmKeys, film_key
from render_farm.storage.local import LocalStore

OLD, NEW = film_key("job", "aaaaaaaaaaaa"), film_key("job", "bbbbbbbbbbbb")
JOB = {"prompt": "a fox", "num_frames": 257, "segments": [{"seconds": 1.25}]}


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "out")


@pytest.fixture
def rendered(tmp_path):
    """Local files of an attempt; their content names it."""

    def make(attempt, *names):
        files = {}
        for name in names or ("video.mp4", "poster.jpg"):
            path = tmp_path / f"{attempt}-{name}"
            path.write_bytes(f"{name} of {attempt}".encode() * 100)
            files[name] = path
        return files

    return make


def assert_published(store, attempt, render_key="aaaaaaaaaaaa", names=("poster.jpg", "video.mp4")):
    assert verify_done(store, "job") == ()
    done = read_done(store, "job")
    assert (done["attempt"], done["render_key"], done["prompt"]) == (attempt, render_key, "a fox")
    assert done["sha256"] == done["files"]["video.mp4"]["sha256"]
    assert store.list("job") == sorted(f"job/{name}" for name in (*names, "job.json"))
    for name in names:
        assert store.read_bytes(f"job/{name}") == f"{name} of {attempt}".encode() * 100


def collected(store, film):
    """What `gc` leaves of a film that is published."""
    store.delete_tree(FilmKeys(film=film).folder)


def test_a_film_is_published_whole(store, rendered):
    published = publish.publish(store, OLD, "a1", rendered("a1"), JOB)
    assert published.won
    assert published.job == read_done(store, "job")
    assert_published(store, "a1")
    collected(store, OLD)
    assert store.list("_work") == []
    assert_published(store, "a1")


def test_job_json_is_plain_json_with_the_given_fields(store, rendered):
    publish.publish(store, OLD, "a1", rendered("a1"), JOB)
    content = json.loads(store.read_bytes("job/job.json"))
    assert content["segments"] == [{"seconds": 1.25}]
    assert content["job_id"] == "job"


class Crash(BaseException):
    """The process dies here."""


class DyingStore(LocalStore):
    """Dies before its n-th write of any kind."""

    def arm(self, writes_left):
        self.writes_left = writes_left

    def _count(self):
        if self.writes_left == 0:
            raise Crash
        self.writes_left -= 1


def _counted(name):
    def method(self, *arguments, **options):
        self._count()
        return getattr(LocalStore, name)(self, *arguments, **options)

    return method


for verb in ("write_bytes", "put_file", "create", "delete", "copy", "delete_tree"):
    setattr(DyingStore, verb, _counted(verb))


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "other-pixels"])
def test_whatever_write_a_publisher_dies_before_the_next_one_finishes(tmp_path, rendered, before):
    """Every state of the store that a death can leave is visited; at each, what is under the final names is whole."""
    for writes_left in range(100):
        store = open_store(tmp_path / f"{before}-{writes_left}")
        if before == "other-pixels":
            files = rendered("a0", "video.mp4", "poster.jpg", "latents.safetensors")
            publish.publish(store, OLD, "a0", files, JOB)
        dying = DyingStore(store.root_uri, store.options)
        dying.arm(writes_left)
        try:
            publish.publish(dying, NEW, "a1", rendered("a1"), JOB)
            died = False
        except Crash:
            died = True
        done = read_done(store, "job")
        if done is not None:  # a job.json never vouches for files that are not there
            assert verify_done(store, "job") == ()
        committed = publish.pending_commit(store, NEW)
        published = publish.publish(store, NEW, "a2", rendered("a2"), JOB)
        if committed is not None:
            assert published.job["attempt"] == "a1"
        assert_published(store, published.job["attempt"], "bbbbbbbbbbbb")
        collected(store, NEW)
        assert not [key for key in store.list("_work") if NEW in key]
        if not died:
            assert published.job["attempt"] == "a1"
            assert writes_left > 8  # it did count
            return
    raise AssertionError("never got through")


def test_a_job_json_that_a_person_removed_in_the_middle_of_cleaning_up_is_published_again(store, rendered):
    publish.publish(store, OLD, "a1", rendered("a1"), JOB)
    store.delete_tree(FilmKeys(film=OLD).attempts)
    store.delete("job/job.json")
    assert publish.publish(store, OLD, "a2", rendered("a2"), JOB).won
    assert_published(store, "a2")


def test_each_step_alone_then_recovery(store, rendered):
    staged = publish.stage(store, OLD, "a1", rendered("a1"), JOB)
    assert store.list("job") == []
    with pytest.raises(NotFoundError):
        publish.finish_publish(store, OLD, "p")
    assert publish.commit(store, staged) == staged
    assert store.list("job") == []
    assert publish.pending_commit(store, OLD) == staged
    first = publish.finish_publish(store, OLD, "p")
    assert publish.finish_publish(store, OLD, "p") == first
    assert_published(store, "a1")


def test_of_two_attempts_the_first_commit_wins(store, rendered):
    one = publish.stage(store, OLD, "a1", rendered("a1"), JOB)
    two = publish.stage(store, OLD, "a2", rendered("a2"), JOB)
    assert publish.commit(store, two) == two
    assert publish.commit(store, one) == two
    assert store.list(FilmKeys(film=OLD).attempt("a1")) == []
    published = publish.publish(store, OLD, "a1", rendered("a1"), JOB)
    assert not published.won
    assert_published(store, "a2")


def test_a_late_attempt_does_not_publish_again(store, rendered):
    publish.publish(store, OLD, "a1", rendered("a1"), JOB)
    collected(store, OLD)
    assert not publish.publish(store, OLD, "a2", rendered("a2"), JOB).won
    assert_published(store, "a1")


def test_a_changed_job_replaces_everything(store, rendered):
    files = rendered("a1", "video.mp4", "poster.jpg", "latents.safetensors")
    publish.publish(store, OLD, "a1", files, JOB)
    assert_published(store, "a1", names=("latents.safetensors", "poster.jpg", "video.mp4"))
    publish.publish(store, NEW, "a2", rendered("a2"), JOB)
    assert_published(store, "a2", "bbbbbbbbbbbb")  # and no latents of other pixels


def test_a_damaged_job_json_means_not_done_and_is_replaced(store, rendered):
    publish.publish(store, OLD, "a1", rendered("a1"), JOB)
    whole = store.read_bytes("job/job.json")
    for damaged in (whole[:-20], b"", b"[]", whole.replace(b"a fox", b"a box"), whole.replace(b'"job"', b'"jab"')):
        store.write_bytes("job/job.json", damaged)
        assert read_done(store, "job") is None
        assert verify_done(store, "job") != ()
    publish.publish(store, OLD, "a2", rendered("a2"), JOB)
    assert_published(store, "a1")  # the commit stands


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_commit_without_its_files_is_withdrawn(store, rendered, damage):
    publish.commit(store, publish.stage(store, OLD, "a1", rendered("a1"), JOB))
    key = FilmKeys(film=OLD).attempt_file("a1", "video.mp4")
    store.delete(key) if damage == "missing" else store.write_bytes(key, b"v")
    with pytest.raises(CorruptCheckpointError, match="withdrawn"):
        publish.finish_publish(store, OLD, "p")
    assert store.list("job") == []
    assert publish.publish(store, OLD, "a2", rendered("a2"), JOB).won
    assert_published(store, "a2")


def test_a_damaged_commit_is_removed(store, rendered, caplog):
    publish.commit(store, publish.stage(store, OLD, "a1", rendered("a1"), JOB))
    store.write_bytes(FilmKeys(film=OLD).commit, b'{"attempt": "a1"')
    assert publish.pending_commit(store, OLD) is None
    assert "removed" in caplog.text
    assert publish.publish(store, OLD, "a2", rendered("a2"), JOB).won


def test_without_create_only_the_last_commit_wins_and_is_warned_of(store, rendered, caplog):
    with caplog.at_level(logging.WARNING):
        one = publish.commit(store, publish.stage(store, OLD, "a1", rendered("a1"), JOB), create_only=False)
        publish._copy_to_final(store, one, False, None)
        store.delete("job/job.json")  # the first is in the middle of it when the second commits
        publish.commit(store, publish.stage(store, OLD, "a2", rendered("a2"), JOB), create_only=False)
    assert "last commit" in caplog.text
    publish.finish_publish(store, OLD, "p")
    assert_published(store, "a2")


def test_unknown_and_missing_files_are_the_callers_mistake(store, rendered):
    for files in ({"poster.jpg": "x"}, {"video.mp4": "x", "evil.html": "y"}, {"video.mp4": "x", "job.json": "y"}):
        with pytest.raises(ValueError, match=r"video\.mp4"):
            publish.stage(store, OLD, "a1", files, JOB)


def test_a_changed_byte_is_found_by_verify(store, rendered):
    publish.publish(store, OLD, "a1", rendered("a1"), JOB)
    whole = store.read_bytes("job/video.mp4")
    store.write_bytes("job/video.mp4", bytes([whole[0] ^ 1]) + whole[1:])
    assert ["sha256" in line for line in verify_done(store, "job")] == [True]
    store.write_bytes("job/video.mp4", whole[:2])
    assert ["has 2 bytes" in line for line in verify_done(store, "job")] == [True]


def test_files_of_a_hook_are_published_and_go_when_another_film_takes_their_place(store, rendered):
    files = rendered("a1", "video.mp4", "poster.jpg", "video.srt")
    publish.publish(store, OLD, "a1", files, JOB)
    assert_published(store, "a1", names=("poster.jpg", "video.mp4", "video.srt"))
    assert is_whole(store, read_done(store, "job"))
    store.write_bytes("job/video.srt", b"cut")
    assert not is_whole(store, read_done(store, "job"))
    publish.publish(store, NEW, "a2", rendered("a2"), JOB)
    assert_published(store, "a2", render_key="bbbbbbbbbbbb")
    assert not store.exists("job/video.srt")


@pytest.mark.parametrize("name", ["../a", "a/b", ".x", "Video.mp4", "rejected-1.jpg", "job.json", "page.HTML", ""])
def test_other_names_are_not_published(store, rendered, tmp_path, name):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ValueError, match="final names"):
        publish.publish(store, OLD, "a1", {**rendered("a1"), name: tmp_path / "file"}, JOB)
