"""What a run finds of its films at its start."""

from __future__ import annotations

from render_farm.farm.driver.existing_output import ExistingOutput
from render_farm.storage.layout import film_key
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
