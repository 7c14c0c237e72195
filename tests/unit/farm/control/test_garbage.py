"""What `gc` removes, and what it never touches."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.farm.control.garbage import find_garbage, remove
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.storage import open_store, publish
from render_farm.storage.claims import claim_job
from render_farm.storage.done import verify_done
from render_farm.storage.layout import FilmKeys, RunKeys, film_key
from render_farm.storage.lease import acquire, this_holder
from render_farm.storage.run_state import JobRow, RunStateWriter, load_run_state

JOBS = ("published", "begun", "changed", "stranger")


def key(job: str, letter: str = "a") -> str:
    return film_key(job, letter * 12)


@pytest.fixture
def store(tmp_path):
    """Run `night`: one film published, one begun, one published after its row was changed; and a stranger's film."""
    store = open_store(tmp_path / "out")
    (tmp_path / "video.mp4").write_bytes(b"video")
    for film in (key("published"), key("changed", "b")):
        publish.publish(store, film, "attempt", {"video.mp4": tmp_path / "video.mp4"}, {})
    for film in (key("begun"), key("changed"), key("stranger")):
        store.write_bytes(FilmKeys(film=film).segment(0, "x"), b"latents")
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
    assert store.exists(FilmKeys(film=key("begun")).segment(0, "x"))
    assert store.exists(FilmKeys(film=key("stranger")).segment(0, "x"))


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


def test_nothing_of_a_run_that_is_being_rendered_goes(store):
    handle = acquire(store, "night", this_holder())
    assert find_garbage(store) == []
    handle.release()
    found = find_garbage(store)
    handle = acquire(store, "night", this_holder())
    assert remove(store, found) == 0
    handle.release()


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
    assert plain.stdout == "nothing can go\n"
