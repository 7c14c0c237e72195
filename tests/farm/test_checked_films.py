"""What happens to films in whose pictures something is found: marked, failed, or not looked at."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from render_farm import load_engine
from render_farm.errors import FilmRejectedError, FindingsError
from render_farm.farm.run.film_task import FilmReport, FilmTask
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.media.check_limits import CheckLimits
from render_farm.media.poster import write_poster
from render_farm.planning.film import with_inputs_read
from render_farm.storage.done import read_done
from render_farm.storage.open import open_store
from tests.helpers import films
from tests.helpers.film_tasks import film_task

ALL_FLAT = CheckLimits(flat_spread=1000.0, cut_levels=1000.0, seam_ratio=1000.0, drift_lightness=1000.0)
"""Every film has one finding."""
NOTHING = replace(ALL_FLAT, flat_spread=0.0, frozen_levels=0.0, flash_lightness=1000.0)
"""No film has one."""


@pytest.fixture(scope="module")
def engine():
    return load_engine("tiny", device="cpu")


def rendered(worker: FilmWorker, task: FilmTask) -> FilmReport:
    for segment in range(task.plan.num_segments):
        worker.render_segment(task, segment)
    return worker.finish_film(task)


def test_findings_and_drift_are_in_the_report_and_in_job_json(engine, tmp_path: Path) -> None:
    worker, task = FilmWorker("w"), film_task(engine, tmp_path)
    film = rendered(worker, replace(task, checks=ALL_FLAT))
    worker.close()
    done = read_done(open_store(task.output), "a")
    assert done is not None
    assert done["findings"] == list(film.findings) == ["flat@0-52"]
    assert len(done["segment_colours"]) == 3
    assert done["drift"] == film.drift > 0


def test_a_film_with_findings_fails_once_and_is_published_when_asked(engine, tmp_path: Path) -> None:
    worker, task = FilmWorker("w"), replace(film_task(engine, tmp_path, checks="fail", seed=7), checks=ALL_FLAT)
    with pytest.raises(FindingsError, match="flat@0-52") as caught:
        rendered(worker, task)
    assert caught.value.findings == ("flat@0-52",)
    assert (tmp_path / "a" / "rejected-7.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert not (tmp_path / "a" / "video.mp4").exists()
    marked = replace(film_task(engine, tmp_path, checks="mark", seed=7), checks=ALL_FLAT)
    assert marked.work_key == task.work_key, "checks are no part of the pixels"
    assert worker.finish_film(marked).findings == ("flat@0-52",), "no segment is rendered again"
    assert worker.finish_film(task).findings == ("flat@0-52",), "what is published stays"
    worker.close()


def test_nothing_is_found_where_nothing_is_looked_for(engine, tmp_path: Path) -> None:
    worker, task = FilmWorker("w"), film_task(engine, tmp_path, checks="off", num_frames=21)
    film = rendered(worker, replace(task, checks=ALL_FLAT))
    worker.close()
    assert (film.findings, film.drift) == ((), None)


def test_a_film_is_compared_with_its_picture_as_long_as_that_can_be_read(
    engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = tmp_path / "red.jpg"
    write_poster(np.full((64, 64, 3), (250, 10, 10), np.uint8), picture)
    task = film_task(engine, tmp_path, image=str(picture), num_frames=21)
    plan = with_inputs_read(task.plan, {"image": hashlib.sha256(picture.read_bytes()).hexdigest()})
    task = replace(task, plan=plan, checks=CheckLimits(input_levels=0.0, flat_spread=0.0))
    worker = FilmWorker("w")
    worker.render_segment(task, 0)
    worker.drop_films()
    picture.rename(tmp_path / "elsewhere.jpg")
    assert "input@0" not in worker.finish_film(task).findings
    assert "is not compared with its image" in caplog.text
    (tmp_path / "elsewhere.jpg").rename(picture)
    (tmp_path / "a" / "job.json").unlink()
    (tmp_path / "_work" / task.work_key / "commit.json").unlink()
    assert "input@0" in worker.finish_film(task).findings
    worker.close()


def rejected(worker: FilmWorker, task: FilmTask) -> FilmRejectedError:
    with pytest.raises(FilmRejectedError) as caught:
        rendered(worker, task)
    return caught.value


def test_the_first_clean_film_is_published_under_the_rows_key(engine, tmp_path: Path) -> None:
    worker, task = FilmWorker("w"), replace(film_task(engine, tmp_path, checks="retry:2", seed=7), checks=ALL_FLAT)
    error = rejected(worker, task)
    assert (error.findings, error.segments_done) == (("flat@0-52",), 0)
    second = replace(task.after(error.findings, error.seconds), checks=NOTHING)
    film = rendered(worker, second)
    worker.close()
    assert (film.findings, film.seeds_tried) == ((), (7, 8))
    assert film.render_s > error.seconds > 0
    done = read_done(open_store(task.output), "a")
    assert done is not None
    assert done["render_key"] == task.plan.render_key
    assert done["parameters"]["seed"] == 8
    assert [(one["seed"], one["findings"]) for one in done["seeds_tried"]] == [(7, ["flat@0-52"]), (8, [])]
    assert (tmp_path / "a" / "rejected-7.jpg").exists()
    other = FilmWorker("other")
    plain = film_task(engine, tmp_path / "plain", seed=8)
    assert rendered(other, plain).sha256 == film.sha256, "it is the film of that seed"
    other.close()


def test_when_no_film_is_clean_the_best_one_is_published(engine, tmp_path: Path) -> None:
    worker, task = FilmWorker("w"), replace(film_task(engine, tmp_path, checks="retry:1", seed=7), checks=ALL_FLAT)
    error = rejected(worker, task)
    second = task.after(error.findings, error.seconds)
    last = rejected(worker, second)
    assert last.segments_done is None, "the film that follows was rendered before"
    film = worker.finish_film(second.after(last.findings, last.seconds))
    worker.close()
    assert (film.findings, film.seeds_tried) == (("flat@0-52",), (8, 7))


@pytest.mark.server
def test_a_run_tries_seeds_and_says_so(tmp_path: Path) -> None:
    job = films.job("a", seed=7, checks="retry:1")
    manifest = films.manifest(tmp_path, [job])
    done = films.render(
        manifest, "--output", str(tmp_path / "out"), "--workers", "1", RENDER_FARM_CHECK_FLAT_SPREAD="1000"
    )
    assert done.returncode == 0, done.stderr
    row = films.results(tmp_path / "out")["a"]
    assert (row["state"], row["attempts"], row["seeds_tried"]) == ("done", 1, [8, 7])
    assert row["findings"][0] == "flat@0-36"
    document = films.document(tmp_path / "out", "a")
    assert document["parameters"]["seed"] == 7
    assert row["gpu_s"] >= sum(one["seconds"] for one in document["seeds_tried"]) - 0.01
    assert "found in its pictures" in done.stdout


def test_colours_that_are_held_are_the_same_wherever_a_film_moves(engine, tmp_path: Path) -> None:
    task = film_task(engine, tmp_path / "moving", drift="adain:0.5")
    for segment in range(3):
        worker = FilmWorker(f"w{segment}")
        worker.render_segment(task, segment)
        worker.close()
    last = FilmWorker("last")
    moving = last.finish_film(task)
    last.close()
    worker = FilmWorker("w")
    staying = rendered(worker, film_task(engine, tmp_path / "staying", drift="adain:0.5"))
    worker.close()
    assert moving.sha256 == staying.sha256
    done = read_done(open_store(task.output), "a")
    assert done is not None and done["approximations"] == ["drift adain:0.5"]
