"""What `gc` removes, and what it never touches."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.errors import LeaseHeldError
from render_farm.farm.control.garbage import find_garbage, remove
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.storage import open_store, publish
from render_farm.storage.checkpoints import (
    SegmentMeta,
    begin_film,
    load_film,
    load_film_state,
    record_segment,
    save_segment,
    stored_segments,
)
from render_farm.storage.claims import claim_job
from render_farm.storage.done import verify_done
from render_farm.storage.layout import SEGMENTS, FilmKeys, RunKeys, film_key, publishing_key, segment_of
from render_farm.storage.lease import Holder, HolderWatch, LeaseKeeper, LeaseTiming, acquire, this_holder
from render_farm.storage.local import LocalStore
from render_farm.storage.probe import create_only_honoured
from render_farm.storage.process import ProcessId
from render_farm.storage.run_state import JobRow, RunStateWriter, load_run_state

JOBS = ("published", "begun", "changed", "stranger")


def key(job: str, letter: str = "a") -> str:
    return film_key(job, letter * 12)


def work_object(film: str) -> str:
    return FilmKeys(film=film).step(0, 1, "x")


@pytest.fixture
def store(tmp_path):
    """Run `night`: one film published, one begun, one published after its row was changed; and a stranger's film."""
    store = open_store(tmp_path / "out")
    (tmp_path / "video.mp4").write_bytes(b"video")
    for film in (key("published"), key("changed", "b")):
        publish.publish(store, film, "attempt", {"video.mp4": tmp_path / "video.mp4"}, {})
    for film in (key("begun"), key("changed"), key("stranger")):
        store.write_bytes(work_object(film), b"latents")
    rows = {
        "published": JobRow(state="done", render_key="a" * 12),
        "begun": JobRow(state="running", render_key="a" * 12),
        "changed": JobRow(state="done", render_key="b" * 12),
    }
    writer = RunStateWriter(store, "night", load_run_state(store, "night"))
    writer.write({"changed": JobRow(state="done", render_key="a" * 12)})
    writer.write(rows)
    store.write_bytes(RunKeys(run_id="night").run, b"{}")
    store.write_bytes(RunKeys(run_id="night").embedding("ab"), b"e")
    write_manifest(str(tmp_path / "m.parquet"), [RenderJob(job_id=job, prompt="p") for job in JOBS])
    store.put_file(tmp_path / "m.parquet", RunKeys(run_id="night").manifest)
    claim_job(store, "night", key("published"))
    return store


def test_what_is_published_goes_and_what_can_go_on_stays(store):
    found = {item.folder: item.why for item in find_garbage(store)}
    assert found == {
        f"_work/{key('published')}": "its film is published",
        f"_work/{key('changed', 'b')}": "its film is published",
        "_work/_claims/published": "claim of a run that has ended",
    }
    assert remove(store, find_garbage(store)) > 0
    assert find_garbage(store) == []
    assert verify_done(store, "published") == verify_done(store, "changed") == ()
    assert store.exists(work_object(key("begun")))
    assert store.exists(work_object(key("stranger")))


def test_the_commit_of_a_work_folder_goes_last_and_no_folder_stays(store, tmp_path, monkeypatch):
    """A late attempt still meets it."""
    deleted, delete = [], LocalStore.delete
    monkeypatch.setattr(LocalStore, "delete", lambda self, key: (deleted.append(key), delete(self, key)))
    folder = FilmKeys(film=key("published")).folder
    remove(store, find_garbage(store))
    own = [name for name in deleted if name.startswith(f"{folder}/")]
    assert len(own) > 1 and own[-1] == FilmKeys(film=key("published")).commit
    assert not (tmp_path / "out" / folder).exists()


def test_what_was_published_before_its_row_changed_goes(store, tmp_path):
    publish.publish(store, key("changed", "c"), "attempt", {"video.mp4": tmp_path / "video.mp4"}, {})
    writer = RunStateWriter(store, "night", load_run_state(store, "night"))
    writer.write({"changed": JobRow(state="done", render_key="c" * 12)})
    found = {item.folder: item.why for item in find_garbage(store)}
    assert found[f"_work/{key('changed', 'b')}"] == "its job is published with other parameters"
    assert f"_work/{key('changed')}" not in found, "it was never finished, and no run says what it is"
    remove(store, find_garbage(store))
    assert verify_done(store, "changed") == ()


def test_prompts_go_when_every_job_of_their_run_is_done(store):
    RunStateWriter(store, "night", load_run_state(store, "night")).write(
        {"begun": JobRow(state="done", render_key="a" * 12)}
    )
    folders = [item.folder for item in find_garbage(store)]
    assert RunKeys(run_id="night").embeddings in folders
    assert f"_work/{key('begun')}" not in folders  # its state says done, but there is no job.json


def keeper(store, run_id="night"):
    timing = LeaseTiming(renew_every_s=0.1, gone_after_s=5.0)
    return LeaseKeeper(acquire(store, run_id, this_holder(), timing), on_lost=lambda error: None)


def a_watch():
    return HolderWatch(1.5, poll_every_s=0.1)


@pytest.mark.slow
def test_nothing_of_a_run_that_is_being_rendered_goes(store):
    held = keeper(store)
    assert find_garbage(store, a_watch()) == []
    held.stop()
    found = find_garbage(store)
    assert found
    held = keeper(store)
    assert remove(store, found, a_watch()) == 0
    held.stop()


@pytest.mark.slow
def test_a_run_that_died_between_lease_and_manifest_keeps_nobody_from_cleaning_up(store):
    elsewhere = Holder(address="x", process=ProcessId(host="another", pid=1, started=1), token="t")
    acquire(store, "broken", elsewhere)
    watch = a_watch()
    found = find_garbage(store, watch)
    assert len(found) == 3
    started = time.monotonic()
    assert remove(store, found, watch) > 0
    assert time.monotonic() - started < 1.5, "a silent holder is watched once"


def test_a_run_that_is_just_starting_and_has_no_manifest_yet_keeps_every_film(store):
    held = keeper(store, "starting")
    assert find_garbage(store, a_watch()) == []
    held.stop()


def test_what_dead_writers_left_under_final_names_is_swept(store, tmp_path):
    dead = f".part-{'0' * 8}-1-1-abcd"
    for folder in ("published", "_work/x", "not an id", "published/below"):
        path = tmp_path / "out" / folder / dead
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        os.utime(path, (1e9, 1e9))
    assert remove(store, []) == 2
    left = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob(".part-*")}
    assert left == {f"not an id/{dead}", f"published/below/{dead}"}, "they are no part of an output tree"
    assert verify_done(store, "published") == ()


def test_a_probe_that_may_be_at_work_stays(store):
    today = f"{datetime.now(UTC):%Y%m%d}"
    for name in (f"probe-{today}-{'a' * 16}", f"probe-20200101-{'b' * 16}", f"probe-{'c' * 16}"):
        store.write_bytes(f"_work/{name}/object", b"x")
    probes = {item.folder for item in find_garbage(store) if "probe" in item.why}
    assert probes == {f"_work/probe-20200101-{'b' * 16}", f"_work/probe-{'c' * 16}"}
    assert create_only_honoured(store)


def test_the_word_of_a_publisher_that_died_goes_only_where_it_mixed_nothing(store):
    word, film = publishing_key("published", "p9"), f"_work/{key('published')}"
    store.write_bytes(word, b"x")
    found = {item.folder for item in find_garbage(store)}
    assert "_work/_publishing/published" in found and film not in found
    store.write_bytes("published/video.mp4", b"VIDEO")  # as many bytes
    assert "_work/_publishing/published" not in {item.folder for item in find_garbage(store)}


def test_gc_shows_first_and_removes_with_yes(store):
    def run(*arguments: str) -> dict:
        done = CliRunner().invoke(app, ["gc", "--output", store.root_uri, "--json", *arguments])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    shown = run()
    assert (len(shown["found"]), shown["removed"]) == (3, 0)
    assert run("--yes")["removed"] > 0
    assert run() == {**shown, "found": [], "removed": 0}
    plain = CliRunner().invoke(app, ["gc", "--output", store.root_uri])
    assert plain.stdout == "nothing to remove\n"


def segments(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number:032x}" for number in numbers)


def render(store, film: str, keys: tuple[str, ...], number: int, attempt: str = "a", others: tuple[str, ...] = ()):
    """What a worker leaves that has rendered the first segments of a film."""
    begin_film(store, film, keys, others=others)
    state = load_film_state(store, film, keys)
    while len(state.segments) < number:
        latents = np.full((1, 1, 1, 1, 1), len(state.segments), np.float32)
        try:
            state = record_segment(store, state, save_segment(store, state, latents, SegmentMeta(attempt=attempt)))
        except LeaseHeldError:
            state = load_film_state(store, film, keys)
    return state


def finish(store, tmp_path, job: str, letter: str, state) -> None:
    document = {"segments": [record.to_dict() for record in state.segments]}
    publish.publish(store, key(job, letter), "last", {"video.mp4": tmp_path / "video.mp4"}, document)


@pytest.fixture
def chains(store, tmp_path):
    """A film that is done, one that was changed after its second segment, one begun, and leftovers of a film that is
    gone. Its work folder was removed, and so was the folder of its job."""
    finish(store, tmp_path, "done", "a", render(store, key("done"), segments(1, 2, 3), 3))
    render(store, key("begun"), segments(1, 2, 4), 3)
    gone = render(store, key("gone"), segments(1, 2, 5), 3)
    store.delete_tree(FilmKeys(film=key("gone")).folder)
    assert gone.num_reused == 2
    return store


def found_segments(store, **options) -> frozenset[str]:
    return next((item.keys for item in find_garbage(store, **options) if item.folder == SEGMENTS), frozenset())


def test_segments_go_that_no_film_consists_of(chains):
    assert {segment_of(name) for name in found_segments(chains)} == set(segments(5))
    assert remove(chains, find_garbage(chains)) > 0
    assert stored_segments(chains) == set(segments(1, 2, 3, 4)), "its work folder is gone, and the film is done"
    assert found_segments(chains) == frozenset()
    assert len(load_film(chains, key("begun")).latents) == 3


def test_films_that_are_done_keep_their_segments_unless_they_are_asked_for(chains):
    watch = a_watch()
    remove(chains, find_garbage(chains, watch, of_done=True), watch, of_done=True)
    assert stored_segments(chains) == set(segments(1, 2, 4)), "a film that has begun needs them"
    assert verify_done(chains, "done") == ()


def test_latents_of_workers_that_died_or_were_late_go(chains):
    state = load_film_state(chains, key("begun"))
    first = replace(state, segments=state.segments[:1])
    late = save_segment(chains, first, np.zeros((1, 1, 1, 1, 1), np.float32), SegmentMeta(attempt="late"))
    assert found_segments(chains) >= {late.key}
    remove(chains, find_garbage(chains))
    assert not chains.exists(late.key)
    assert load_film_state(chains, key("begun")) == state


def test_no_segment_goes_while_a_run_is_held(chains):
    held = keeper(chains, "another")
    assert found_segments(chains, watch=a_watch()) == frozenset()
    held.stop()


def test_no_segment_goes_when_a_films_list_cannot_be_read(chains):
    chains.write_bytes(FilmKeys(film=key("begun")).manifest, b"{")
    assert found_segments(chains) == frozenset()


def test_segments_of_a_rejected_seed_stay_until_the_film_is_done(store, tmp_path):
    """`checks: retry:N` renders another seed into the same work folder. Nothing of the first one is taken for its, and
    when every seed has findings, the film comes back to the best."""
    film, first, second = key("retried"), segments(1, 2), segments(3, 4)
    assert render(store, film, first, 2).num_reused == 0
    assert load_film(store, film, second, with_earlier=False).latents == ()
    render(store, film, second, 1, others=first)
    assert found_segments(store) == frozenset()
    finish(store, tmp_path, "retried", "a", render(store, film, second, 2, others=first))
    remove(store, find_garbage(store))
    assert stored_segments(store) == set(second)
    assert len(load_film(store, film, second, with_earlier=False).latents) == 2
