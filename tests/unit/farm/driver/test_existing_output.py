"""What a run finds of its films at its start."""

from __future__ import annotations

import json
from dataclasses import replace as changed

import numpy as np
import pytest

from render_farm.farm.driver.existing_output import ExistingOutput
from render_farm.job import RenderJob
from render_farm.planning import plan_film
from render_farm.storage.checkpoints import SegmentMeta, StoredFilm, record_segment, save_segment
from render_farm.storage.done import verify_done
from render_farm.storage.layout import RunKeys, film_key, publishing_key
from render_farm.storage.open import open_store
from render_farm.storage.publish import publish
from render_farm.storage.run_state import JobRow, StoredRun
from tests.helpers.film_entries import entry
from tests.helpers.segments import save_as_before

SIZE = {"num_frames": 37, "base_num_frames": 21, "overlap_history": 5}


def test_a_film_that_another_run_replaced_is_not_done(tmp_path):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    (tmp_path / "file").write_bytes(b"some film")
    files = {"video.mp4": tmp_path / "file", "poster.jpg": tmp_path / "file"}
    rows = {"a": JobRow(state="done", render_key=plan.render_key, segments=2, segments_done=2, sha256="of the film")}

    def found():
        return ExistingOutput(store, StoredRun(jobs=rows), keep_latents=False).look_up([plan])[0]

    mine, other = film_key("a", plan.render_key), film_key("a", "0123456789ab")
    publish(store, mine, "a1", files, {"prompt": "p"})
    assert found().done.sha256 == "of the film"
    publish(store, other, "a2", files, {"prompt": "q"})
    assert (found().done, found().segments_done) == (None, 0)
    publish(store, mine, "a3", files, {"prompt": "p"})
    assert found().done is not None


def test_a_video_of_another_size_than_job_json_says_is_not_done_and_is_published_again(tmp_path):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    (tmp_path / "file").write_bytes(b"some film" * 1000)
    files = {"video.mp4": tmp_path / "file", "poster.jpg": tmp_path / "file"}
    film = film_key("a", plan.render_key)
    publish(store, film, "a1", files, {"prompt": "p"})
    old = JobRow(state="done", render_key=plan.render_key, segments=2, segments_done=2, sha256="s")
    for row in ({}, {"a": old}, {"a": changed(old, video_bytes=9000)}):

        def found(row=row):
            return ExistingOutput(store, StoredRun(jobs=row), keep_latents=False).look_up([plan])[0]

        assert found().done.video_bytes == 9000
        store.write_bytes("a/video.mp4", b"x" * 3000)
        assert (found().done, found().segments_done) == (None, 2 if row else 0)
        publish(store, film, "a2", files, {"prompt": "p"})
        assert verify_done(store, "a") == ()


def test_a_job_that_somebody_died_publishing_is_compared_by_its_checksums(tmp_path):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    (tmp_path / "file").write_bytes(b"some film")
    publish(
        store, film_key("a", plan.render_key), "a1", dict.fromkeys(("video.mp4", "poster.jpg"), tmp_path / "file"), {}
    )
    row = JobRow(state="done", render_key=plan.render_key, video_bytes=9)
    lookup = ExistingOutput(store, StoredRun(jobs={"a": row}), keep_latents=False)
    store.write_bytes(publishing_key("a", "p9"), b"")
    assert lookup.look_up([plan])[0].done is not None
    store.write_bytes("a/video.mp4", b"SOME FILM")
    assert lookup.look_up([plan])[0].done is None


def test_a_run_of_many_films_that_are_done_starts_with_a_few_requests(tmp_path, monkeypatch):
    """Its state has the sizes of their videos: no `job.json` is read."""
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    for name in ("video.mp4", "poster.jpg", "job.json"):
        store.write_bytes(f"a/{name}", b"123")
    rows = {"a": JobRow(state="done", render_key=plan.render_key, video_bytes=3)}
    monkeypatch.setattr(store, "read_bytes", None)
    assert ExistingOutput(store, StoredRun(jobs=rows), keep_latents=False).look_up([plan])[0].done is not None


def test_a_film_that_begins_as_a_stored_one_has_that_beginning(tmp_path):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    state = StoredFilm(film=film_key("a", plan.render_key), keys=plan.segment_keys)
    for index in range(2):
        latents = np.full((1, 1, 1, 1, 1), index, np.float32)
        state = record_segment(store, state, save_segment(store, state, latents, SegmentMeta(attempt="w")))
    job = RenderJob(job_id="b", prompt=["a red circle", "new"], seed=plan.job.seed, **SIZE)
    changed_film = plan_film(job, plan.spec)
    other = plan_film(RenderJob(job_id="b", prompt="a red circle", **SIZE), plan.spec)
    looked_up = ExistingOutput(store, StoredRun(), keep_latents=False).look_up([plan, changed_film, other])
    assert [film.segments_done for film in looked_up] == [2, 1, 0], "another seed is another film"


def test_a_film_that_began_before_segments_had_keys_has_its_own(tmp_path):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    save_as_before(store, film_key("a", plan.render_key), 0, np.zeros((1, 1, 1, 1, 1), np.float32))
    assert found(store, plan).segments_done == 1


def film_of(store, tmp_path, plan, run_id, *, key=None, draft=""):
    (tmp_path / "file").write_bytes(b"some film")
    files = {"video.mp4": tmp_path / "file", "poster.jpg": tmp_path / "file"}
    document = {"run_id": run_id, **({"draft": draft} if draft else {})}
    publish(store, film_key("a", key or plan.render_key), "x", files, document)


def run_of(store, run_id, manifest):
    document = {"manifest": manifest, "started_at": "2026-11-28T22:00:00+00:00"}
    store.write_bytes(RunKeys(run_id=run_id).run, json.dumps(document).encode())


def found(store, plan, *, run_id="mine-2", manifest="/here/mine.parquet", replace=False):
    output = ExistingOutput(store, StoredRun(), keep_latents=False, run_id=run_id, manifest=manifest, replace=replace)
    return output.look_up([plan])[0]


@pytest.mark.parametrize(
    ("other", "manifest", "is_refused"),
    [
        ("theirs-1", "/there/theirs.parquet", True),
        ("mine-1", "/there/mine.parquet", False),  # the manifest was edited, and has its name still
        ("nightly-1", "/there/mine.parquet", False),
        ("mine-2", "/there/theirs.parquet", False),  # this very run
        ("prompt-1", None, True),
        ("theirs-1", "gone", True),  # its folder was removed: the id tells
        ("mine-1", "gone", False),
        (None, "gone", False),  # an old film that names no run
    ],
)
def test_a_film_of_another_manifest_is_not_replaced_without_being_asked(tmp_path, other, manifest, is_refused):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    film_of(store, tmp_path, plan, other, key="0123456789ab")
    if manifest != "gone":
        run_of(store, other, manifest)
    refused = found(store, plan).refused
    assert bool(refused) is is_refused
    if is_refused:
        assert f"run {other}" in refused
        assert "--replace" in refused
        assert manifest in (None, "gone") or f"({manifest}, 2026-11-28T22:00:00+00:00)" in refused
    assert not found(store, plan, replace=True).refused


def test_a_draft_takes_the_place_of_no_film_and_a_film_of_no_draft(tmp_path):
    """A job may have the name of another one's draft."""
    film = entry("a", tmp_path).task.plan
    draft = plan_film(RenderJob(job_id="a", prompt="a red circle", **SIZE), film.spec, first_segments=1)
    for there, kept in (("", film), ("a draft: 1 of 2", draft)):
        store = open_store(tmp_path / f"out{there}")
        film_of(store, tmp_path, film, "mine-2", key="0123456789ab", draft=there)
        for plan in (film, draft):
            refused = found(store, plan).refused
            assert bool(refused) is (plan is not kept), (there, plan)
            assert not refused or refused.startswith("job_id a: ")
            assert not refused or "Another job_id or --output keeps both" in refused
            assert not found(store, plan, replace=True).refused


def test_the_same_film_of_another_manifest_is_done(tmp_path):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    film_of(store, tmp_path, plan, "theirs-1")
    assert found(store, plan).done is not None


def test_a_done_film_with_more_files_than_this_run_asks_for_is_done(tmp_path):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    (tmp_path / "file").write_bytes(b"some film")
    names = ("video.mp4", "poster.jpg", "latents.safetensors", "video.srt")
    publish(store, film_key("a", plan.render_key), "a1", dict.fromkeys(names, tmp_path / "file"), {"prompt": "p"})

    def found():
        return ExistingOutput(store, StoredRun(), keep_latents=False).look_up([plan])[0].done

    assert found() is not None
    store.write_bytes("a/video.srt", b"x")
    assert found() is None
