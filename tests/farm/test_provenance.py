"""Films of a worker say that a model made them, and are signed where the settings ask for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm import __version__, load_engine
from render_farm.errors import ProvenanceError
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.media.provenance import Marker, read_marker
from render_farm.media.provenance_settings import ProvenanceSettings
from render_farm.media.signing import read_signature
from render_farm.storage.done import read_done
from render_farm.storage.layout import FilmKeys
from render_farm.storage.open import open_store
from tests.helpers.film_tasks import film_task
from tests.helpers.signing_keys import write_signing_keys


@pytest.fixture(scope="module")
def engine():
    return load_engine("tiny", device="cpu")


def rendered(engine, output, **values):
    """A worker, and a film of which all segments are stored."""
    task = replace(film_task(engine, output), **values)
    worker = FilmWorker("w")
    for segment in range(task.plan.num_segments):
        worker.render_segment(task, segment)
    return worker, task


def test_film_poster_and_preview_carry_the_same_marker(engine, tmp_path):
    worker, task = rendered(engine, tmp_path, previews=True)
    worker.finish_film(task)
    worker.close()
    marker = Marker(
        job_id="a", model="tiny", model_version=engine.spec.fingerprint, software=f"render_farm {__version__}"
    )
    preview = tmp_path / FilmKeys(film=task.work_key).preview("preview.mp4")
    sheet = preview.with_name("sheet.jpg")
    for path in (tmp_path / "a" / "video.mp4", tmp_path / "a" / "poster.jpg", preview, sheet):
        assert read_marker(path) == marker, path.name
    assert read_done(open_store(task.output), "a")["provenance"] == {"marked": True, "signed_by": None}


def test_no_marker_where_none_is_wanted(engine, tmp_path):
    worker, task = rendered(engine, tmp_path, provenance=ProvenanceSettings(mark=False))
    worker.finish_film(task)
    worker.close()
    assert read_marker(tmp_path / "a" / "video.mp4") is None and read_marker(tmp_path / "a" / "poster.jpg") is None
    assert read_done(open_store(task.output), "a")["provenance"] == {"marked": False, "signed_by": None}


def test_a_film_and_its_poster_are_signed_as_they_are_published(engine, tmp_path):
    pytest.importorskip("c2pa", reason="it comes with the extra `provenance`")
    chain, key = write_signing_keys(tmp_path)
    settings = ProvenanceSettings(certificate=str(chain), private_key=str(key))
    worker, task = rendered(engine, tmp_path / "out", provenance=settings)
    worker.finish_film(task)
    worker.close()
    for name in ("video.mp4", "poster.jpg"):
        assert read_signature(tmp_path / "out" / "a" / name).problems == ()
    done = read_done(open_store(task.output), "a")
    assert done["provenance"] == {"marked": True, "signed_by": "Example Signer"}


def test_a_signature_that_fails_fails_the_job_and_nothing_is_published(engine, tmp_path):
    pytest.importorskip("c2pa", reason="it comes with the extra `provenance`")
    chain, key = write_signing_keys(tmp_path, expired=True)
    settings = ProvenanceSettings(certificate=str(chain), private_key=str(key))
    worker, task = rendered(engine, tmp_path / "out", provenance=settings)
    with pytest.raises(ProvenanceError, match=r"cannot sign poster\.jpg"):
        worker.finish_film(task)
    worker.close()
    assert not (tmp_path / "out" / "a").exists()
