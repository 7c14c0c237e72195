"""What a run finds of its films at its start."""

from __future__ import annotations

import json

import pytest

from render_farm.farm.driver.existing_output import ExistingOutput
from render_farm.storage.layout import RunKeys, film_key
from render_farm.storage.open import open_store
from render_farm.storage.publish import publish
from render_farm.storage.run_state import JobRow, StoredRun
from tests.helpers.film_entries import entry


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


def film_of(store, tmp_path, plan, run_id, *, key=None):
    (tmp_path / "file").write_bytes(b"some film")
    files = {"video.mp4": tmp_path / "file", "poster.jpg": tmp_path / "file"}
    publish(store, film_key("a", key or plan.render_key), "x", files, {"run_id": run_id})


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


def test_the_same_film_of_another_manifest_is_done(tmp_path):
    store, plan = open_store(tmp_path / "out"), entry("a", tmp_path).task.plan
    film_of(store, tmp_path, plan, "theirs-1")
    assert found(store, plan).done is not None
