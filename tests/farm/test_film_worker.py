"""A worker's own work, without Ray: segments stored one by one, films that move, disks that fill."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from render_farm import load_engine
from render_farm.errors import Cancelled, CorruptCheckpointError, PreemptedError
from render_farm.farm.run.timeouts import Timeouts
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.farm.worker.films.film_cache import CheckpointBehindError
from render_farm.parallel import GroupError
from render_farm.storage.checkpoints import load_film, load_film_state
from render_farm.storage.done import read_done
from render_farm.storage.open import open_store
from render_farm.storage.scratch import clear_abandoned, make_folder
from tests.helpers import films
from tests.helpers.film_tasks import film_task
from tests.helpers.segments import save_as_before


@pytest.fixture(scope="module")
def engine():
    return load_engine("tiny", device="cpu")


def test_a_film_from_first_segment_to_published(engine, tmp_path):
    worker, task = FilmWorker("w"), film_task(engine, tmp_path)
    steps, notes = [], []
    for segment in range(3):
        report = worker.render_segment(task, segment, on_step=lambda step: steps.append((step.segment, step.step)))
        assert report.segment == segment
        assert (report.loading_s is not None) == (segment == 0), "the model is loaded once"
        notes += report.notes
        assert len(load_film_state(open_store(task.output), task.work_key).segments) == segment + 1
    film = worker.finish_film(task)
    worker.close()
    assert steps == [(segment, step) for segment in range(3) for step in (1, 2)]
    assert film.num_frames == 53
    films.assert_complete(tmp_path, "a", num_frames=53)
    done = read_done(open_store(task.output), "a")
    assert done["sha256"] == film.sha256
    assert [(seam["segment"], seam["frame"]) for seam in done["seams"]] == [(1, 21), (2, 37)]
    assert done["seam_score"] == film.seam_score == max(seam["score"] for seam in done["seams"]) > 0
    assert [note.split(":")[0] for note in notes] == ["attention", "compile", "kv_cache"], (
        "said once, not for every segment"
    )
    for segment in done["segments"]:
        assert segment["engine"]["attention"]["name"] == "torch_flash"
        assert segment["engine"]["attention"]["timings_ms"]["torch_flash"] > 0
        assert segment["engine"]["kv_cache"]["keeps"] is False


def test_a_film_that_moves_after_every_segment_is_bit_identical(engine, tmp_path):
    task = film_task(engine, tmp_path / "moving")
    for segment in range(3):
        worker = FilmWorker(f"w{segment}")
        worker.render_segment(task, segment)
        worker.close()
    last = FilmWorker("last")
    last.finish_film(task)
    last.close()
    stays = film_task(engine, tmp_path / "staying")
    worker = FilmWorker("w")
    for segment in range(3):
        worker.render_segment(stays, segment)
    worker.finish_film(stays)
    worker.close()
    assert np.array_equal(films.latents(tmp_path / "moving", "a"), films.latents(tmp_path / "staying", "a"))
    video = [(tmp_path / name / "a" / "video.mp4").read_bytes() for name in ("moving", "staying")]
    assert video[0] == video[1]


def test_a_stored_segment_is_not_rendered_again(engine, tmp_path):
    task = film_task(engine, tmp_path)
    first, second = FilmWorker("first"), FilmWorker("second")
    first.render_segment(task, 0)
    second.render_segment(task, 0, on_step=lambda step: pytest.fail("it was rendered again"))
    assert second.render_segment(task, 1).segment == 1
    # the first worker's picture of the film is old now: what the other stored counts
    assert first.render_segment(task, 1, on_step=lambda step: pytest.fail("it was rendered again")).segment == 1
    state = load_film_state(open_store(task.output), task.work_key)
    assert [record.worker for record in state.segments] == ["first", "second"]


def test_the_same_film_in_two_outputs_is_stored_in_both(engine, tmp_path):
    worker, tasks = FilmWorker("w"), [film_task(engine, tmp_path / name) for name in ("here", "there")]
    for segment in range(2):
        for task in tasks:
            assert not worker.render_segment(task, segment).is_found
            assert len(load_film_state(open_store(task.output), task.work_key).segments) == segment + 1
    worker.close()


def test_only_the_damaged_one_of_many_segments_is_rendered_again(engine, tmp_path):
    task = film_task(engine, tmp_path)
    first, second = FilmWorker("first"), FilmWorker("second")
    for segment in range(3):
        first.render_segment(task, segment)
    store = open_store(task.output)
    key = load_film_state(store, task.work_key).segments[0].key
    store.write_bytes(key, bytes([*(data := store.read_bytes(key))[:-1], data[-1] ^ 1]))
    with pytest.raises(CheckpointBehindError) as caught:
        second.finish_film(task)
    assert caught.value.segments_done == 0
    steps = []
    for segment in range(3):
        second.render_segment(task, segment, on_step=lambda step: steps.append((step.segment, step.step)))
    assert steps == [(0, 1), (0, 2)]
    assert [record.worker for record in load_film_state(store, task.work_key).segments] == ["second", "first", "first"]
    second.finish_film(task)
    films.assert_complete(tmp_path, "a", num_frames=53)


def test_segments_that_are_not_there_are_said_to_be_missing(engine, tmp_path):
    task = film_task(engine, tmp_path)
    worker = FilmWorker("w")
    with pytest.raises(CheckpointBehindError) as caught:
        worker.render_segment(task, 2)
    assert caught.value.segments_done == 0
    with pytest.raises(CheckpointBehindError):
        worker.finish_film(task)


def test_stopping_ends_at_the_next_step_and_leaves_no_segment(engine, tmp_path):
    task = film_task(engine, tmp_path, num_inference_steps=20)
    worker, seen = FilmWorker("w"), []

    def stop_at_third(step):
        seen.append(step.step)
        if step.step == 3:
            worker.stop(7)

    with pytest.raises(Cancelled):
        worker.render_segment(task, 0, call_id=7, on_step=stop_at_third)
    assert seen == [1, 2, 3]
    assert load_film_state(open_store(task.output), task.work_key).segments == ()


def test_a_film_that_is_being_finished_stops_at_its_next_frame_and_can_be_finished_afterwards(engine, tmp_path):
    task, frames = film_task(engine, tmp_path), []
    worker = FilmWorker("w")
    for segment in range(3):
        FilmWorker("other").render_segment(task, segment)  # nothing is decoded here yet

    def stop_at_third() -> None:
        frames.append(len(frames))
        if len(frames) == 3:
            worker.stop(8)

    with pytest.raises(Cancelled):
        worker.finish_film(task, call_id=8, on_progress=stop_at_third)
    assert len(frames) == 3, "it was decoded to the end"
    assert read_done(open_store(task.output), "a") is None
    assert worker.finish_film(task, call_id=9).num_frames == 53
    worker.close()


def test_a_film_whose_segment_is_stopped_is_not_decoded_any_further(engine, tmp_path):
    task, worker = film_task(engine, tmp_path, num_inference_steps=4), FilmWorker("w")
    worker.render_segment(task, 0)
    output = worker._films.film(open_store(task.output), task).output
    with pytest.raises(Cancelled):
        worker.render_segment(task, 1, call_id=7, on_step=lambda step: worker.stop(7))
    worker.close()
    assert not output._folder.exists(), "its decoder went on for nobody"


def test_a_run_that_is_stopped_keeps_the_steps_of_its_segments(engine, tmp_path):
    """Ctrl-C, SIGTERM and `cancel RUN`: the worker stays, and whoever renders the segment goes on from its steps."""
    task = film_task(engine, tmp_path, num_inference_steps=6)
    worker, steps = FilmWorker("w", num_threads=1), []
    with pytest.raises(Cancelled, match="step 4 of 6"):
        worker.render_segment(
            task, 0, call_id=7, on_step=lambda step: step.step == 3 and worker.stop(7, keep_steps=True)
        )
    report = worker.render_segment(task, 0, call_id=8, on_step=lambda step: steps.append(step.step))
    assert steps == [5, 6]
    assert any("resumes from step 4" in note for note in report.notes)
    # A stop at the last step would cost more than it saves: the segment is completed.
    worker.render_segment(task, 1, call_id=9, on_step=lambda step: step.step == 5 and worker.stop(9, keep_steps=True))
    assert len(load_film_state(open_store(task.output), task.work_key).segments) == 2


def test_a_worker_that_is_asked_to_end_stores_its_steps_and_another_goes_on_bit_for_bit(engine, tmp_path):
    task = replace(
        film_task(engine, tmp_path / "moving", num_inference_steps=6), timeouts=Timeouts(preemption_grace_s=3600.0)
    )
    first, second, steps = FilmWorker("first", num_threads=1), FilmWorker("second", num_threads=1), []
    first.render_segment(task, 0, on_step=lambda step: step.step == 2 and first.preempt())  # it has the time
    first = FilmWorker("first", num_threads=1)
    with pytest.raises(PreemptedError, match="step 4 of 6"):
        first.render_segment(task, 1, on_step=lambda step: step.step == 3 and first.preempt(0.0))
    with pytest.raises(PreemptedError):
        first.render_segment(task, 1, on_step=lambda step: pytest.fail("it began something new"))
    store = open_store(task.output)
    assert len([key for key in store.list("_work") if "/steps/" in key]) == 1
    report = second.render_segment(task, 1, on_step=lambda step: steps.append(step.step))
    assert steps == [5, 6]
    assert any("resumes from step 4" in note for note in report.notes)
    assert not [key for key in store.list("_work") if "/steps/" in key]
    stays = film_task(engine, tmp_path / "staying", num_inference_steps=6)
    worker = FilmWorker("w", num_threads=1)
    for segment in range(2):
        worker.render_segment(stays, segment)
    there, here = load_film(open_store(stays.output), stays.work_key), load_film(store, task.work_key)
    assert [a.tobytes() for a in here.latents] == [a.tobytes() for a in there.latents]


def test_steps_that_are_longer_than_the_drain_time_are_noted_once(engine, tmp_path):
    task = film_task(engine, tmp_path, num_inference_steps=3)
    slow, patient, quick = (
        FilmWorker(name, drain_s=drain_s) for name, drain_s in (("a", 0.0), ("b", 0.0), ("c", 3600))
    )
    first, second = (slow.render_segment(task, segment) for segment in (0, 1))
    assert [note for note in first.notes if "a step takes longer than the 0 s" in note]
    assert not [note for note in second.notes if "a step takes" in note]
    often = Timeouts(step_checkpoint_s=3600.0)
    safe = replace(film_task(engine, tmp_path / "safe", num_inference_steps=3), timeouts=often)
    notes = (*patient.render_segment(safe, 0).notes, *quick.render_segment(task, 2).notes)
    assert not [note for note in notes if "a step takes" in note]


def test_a_missing_or_damaged_embedding_is_a_cluster_error(engine, tmp_path):
    task = film_task(engine, tmp_path)
    for path in (tmp_path / "_runs" / "r" / "embeddings").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(CorruptCheckpointError, match="damaged"):
        FilmWorker("w").render_segment(task, 0)
    with pytest.raises(CorruptCheckpointError, match="missing"):
        FilmWorker("w").render_segment(task, 0)


def test_folders_of_killed_workers_are_cleared_away(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    script = "from render_farm.storage.scratch import make_folder; print(make_folder())"
    dead = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ).stdout.strip()
    mine = make_folder()
    assert clear_abandoned() == 1
    assert mine.exists()
    assert not Path(dead).exists()


def finish_with_small_files(output: str, limit_bytes: int) -> subprocess.CompletedProcess[str]:
    """Finish the film of `output` in a process whose files may not grow beyond a limit, as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    script = (
        "import pickle, sys\n"
        "from render_farm.farm.worker.film_worker import FilmWorker\n"
        "from render_farm.farm.coordinator.failures import classify\n"
        "task = pickle.load(open(sys.argv[1] + '/task.pickle', 'rb'))\n"
        "try:\n"
        "    FilmWorker('w').finish_film(task)\n"
        "except Exception as error:\n"
        "    failure = classify(error, worker='w')\n"
        "    print(failure.fault, failure.error_class, failure.message)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, output], capture_output=True, text=True, preexec_fn=limit, timeout=240
    )


@pytest.mark.long
def test_a_full_disk_leaves_nothing_under_a_final_name_and_a_clear_message(engine, tmp_path):
    import pickle

    task = film_task(engine, tmp_path, height=128, width=128, quality=10)
    worker = FilmWorker("w")
    for segment in range(3):
        worker.render_segment(task, segment)
    (tmp_path / "task.pickle").write_bytes(pickle.dumps(task))
    failed = finish_with_small_files(str(tmp_path), 20_000)
    assert failed.stdout.startswith("cluster StorageFullError"), failed.stdout + failed.stderr
    assert not (tmp_path / "a").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    worker.finish_film(task)
    worker.close()
    assert (tmp_path / "a" / "job.json").exists()
    assert (tmp_path / "a" / "video.mp4").stat().st_size > 20_000


def test_films_that_wait_to_be_finished_are_not_dropped_for_new_ones(engine, tmp_path):
    worker = FilmWorker("w")
    tasks = [film_task(engine, tmp_path, f"film-{i}", num_frames=21) for i in range(6)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        finishing = []
        for task in tasks:
            worker.render_segment(task, 0)
            finishing.append(pool.submit(worker.finish_film, task))
        assert [future.result().num_frames for future in finishing] == [21] * 6
    worker.close()


def test_what_was_removed_from_a_done_film_is_published_again(engine, tmp_path):
    worker, task = FilmWorker("w"), replace(film_task(engine, tmp_path), keep_latents=False)
    for segment in range(3):
        worker.render_segment(task, segment)
    worker.finish_film(task)
    (tmp_path / "a" / "video.mp4").unlink()
    worker.finish_film(task)
    films.assert_complete(tmp_path, "a", num_frames=53)
    assert not (tmp_path / "a" / "latents.safetensors").exists()
    worker.finish_film(replace(task, keep_latents=True))
    worker.close()
    films.assert_complete(tmp_path, "a", num_frames=53)
    assert films.latents(tmp_path, "a").shape[2] == 14


LONG_FILM = {"num_frames": 293, "base_num_frames": 21, "overlap_history": 5, "seed": 11}
"""Eighteen segments."""


@pytest.mark.long
@pytest.mark.slow
def test_a_film_of_18_segments_whose_prompt_13_changes_renders_6_again_bit_for_bit(engine, tmp_path):
    prompts = ["a red circle moving right", *["a blue square"] * 11, "a green circle", *["a blue square"] * 5]
    changed = [*prompts[:12], "a red circle moving right", *prompts[13:]]
    output = tmp_path / "out"

    def rendered(task) -> list[int]:
        worker, steps = FilmWorker("w"), set()
        for segment in range(task.plan.num_segments):
            worker.render_segment(task, segment, on_step=lambda step: steps.add(step.segment))
        worker.finish_film(task)
        worker.close()
        return sorted(steps)

    assert rendered(film_task(engine, output, prompt=prompts, **LONG_FILM)) == list(range(18))
    again = film_task(engine, output, prompt=changed, **LONG_FILM)
    assert rendered(again) == list(range(12, 18))
    fresh = film_task(engine, tmp_path / "fresh", prompt=changed, **LONG_FILM)
    assert rendered(fresh) == list(range(18))
    assert np.array_equal(films.latents(output, "a"), films.latents(tmp_path / "fresh", "a"))
    assert (output / "a" / "video.mp4").read_bytes() == (tmp_path / "fresh" / "a" / "video.mp4").read_bytes()
    assert [read_done(open_store(task.output), "a")["reused_segments"] for task in (again, fresh)] == [12, 0]
    assert rendered(film_task(engine, output, "b", prompt=changed[:12], **{**LONG_FILM, "num_frames": 181})) == []


def test_of_two_films_that_begin_alike_the_slower_one_goes_on_from_the_others_segments(engine, tmp_path):
    first, second = FilmWorker("first"), FilmWorker("second")
    tasks = [film_task(engine, tmp_path, name, seed=3, prompt=["a red circle", name]) for name in ("a", "b")]
    first.render_segment(tasks[0], 0)

    def overtaken(step) -> None:
        if step.step == 1:
            first.render_segment(tasks[0], 1)

    own = second.render_segment(tasks[1], 0, on_step=lambda step: pytest.fail("it was rendered again"))
    assert (own.is_found, own.seconds) == (True, 0.0)
    third = film_task(engine, tmp_path, "c", seed=3, prompt=["a red circle", "a"])
    report = second.render_segment(third, 0)
    report = second.render_segment(third, 1, on_step=overtaken)
    assert not report.is_found, "it was rendered twice, at the same time"
    store = open_store(tmp_path)
    assert load_film_state(store, third.work_key).segments == load_film_state(store, tasks[0].work_key).segments
    assert len(store.list("_work/_segments")) == 4, "the one that was late is removed"
    films_of = [load_film(store, task.work_key) for task in (tasks[0], third)]
    assert [a.tobytes() for a in films_of[0].latents] == [a.tobytes() for a in films_of[1].latents]


def test_a_helper_goes_to_no_meeting_for_a_segment_that_is_stored(engine, tmp_path):
    task, helper = film_task(engine, tmp_path), FilmWorker("helper")
    FilmWorker("w").render_segment(task, 0)
    with pytest.raises(GroupError, match="stored already"):
        helper.help_segment(task, 0, call_id=1, seat=None)
    helper.close()


def test_a_film_that_began_before_segments_had_keys_goes_on_bit_for_bit(engine, tmp_path):
    task, stays = film_task(engine, tmp_path / "before"), film_task(engine, tmp_path / "now")
    worker = FilmWorker("w")
    for segment in range(3):
        worker.render_segment(stays, segment)
    whole = load_film(open_store(stays.output), stays.work_key)
    for segment in range(2):
        save_as_before(open_store(task.output), task.work_key, segment, whole.latents[segment])
    steps = set()
    for segment in (1, 2):
        worker.render_segment(task, segment, on_step=lambda step: steps.add(step.segment))
    worker.finish_film(task)
    worker.close()
    assert steps == {2}
    films.assert_complete(tmp_path / "before", "a", num_frames=53)
    assert np.array_equal(films.latents(tmp_path / "before", "a"), np.concatenate(whole.latents, axis=2))
    assert read_done(open_store(task.output), "a")["reused_segments"] == 0
