"""A run's progress: the sums that it keeps are those of its films."""

from __future__ import annotations

import json
import random
from collections import Counter

from render_farm.farm.run.film_task import FilmReport
from render_farm.farm.run.progress import RunProgress
from render_farm.farm.run.results import Result, dump_results
from render_farm.farm.run.rows import result_of, row_of
from render_farm.farm.run.spec import RunSpec
from render_farm.manifest.parquet_rows import read_rows
from render_farm.scheduling.states import MOVES, State
from render_farm.storage.open import open_store
from render_farm.storage.run_state import JobRow
from tests.helpers.film_entries import entry

ENDS = [state for state in State if state.ended]


def test_the_sums_over_films_are_right_after_whatever_happened(tmp_path):
    record, draw = RunProgress(RunSpec(run_id="r", output=str(tmp_path)), open_store(tmp_path)), random.Random(1)
    for number in range(30):
        record.add(entry(f"f{number}", tmp_path, draw.choice([None, 100.0, 200.0, 300.0])))
    for _ in range(600):
        job_id = f"f{draw.randrange(30)}"
        film = record.films[job_id]
        state = State(film.result.state)
        match draw.choice(["start", "done", "back", "end", "again"]):
            case "start" if not state.ended:
                record.started(job_id, "w", "denoise" if film.segments_done < 2 else "publish")
            case "done" if state is State.RUNNING and film.segments_done < 2:
                record.segment_done(job_id, 1.0)
            case "back":
                record.roll_back(job_id, "why", draw.randint(0, film.segments_done))
            case "end" if draw.random() < 0.1 and not state.ended:
                record.ended(job_id, draw.choice(ENDS), error_class="", message="", attempts=1)
            case "again" if State.WAITING in MOVES[state] and state.ended:
                record.requeue(job_id)
        films = record.films.values()
        left = [film for film in films if not State(film.result.state).ended]
        now = record.snapshot(now_s=150.0)
        assert now.jobs == Counter(str(film.result.state) for film in films)
        assert now.segments_running == sum(film.phase == "denoise" for film in left)
        assert now.segments_waiting + now.segments_running == sum(2 - film.segments_done for film in left)
        assert now.segments_done == sum(film.segments_done for film in films)
        assert now.num_late == sum(film.entry.deadline_s == 100.0 for film in left)
        assert sorted(record.deadlines.elements()) == sorted(f.entry.deadline_s for f in left if f.entry.deadline_s)


def test_a_segment_that_is_found_takes_no_time_of_the_run(tmp_path):
    record = RunProgress(RunSpec(run_id="r", output=str(tmp_path)), open_store(tmp_path))
    film = record.add(entry("a", tmp_path))
    record.started("a", "w", "denoise")
    record.segment_done("a", 0.0, is_found=True)
    assert (film.segments_done, film.result.gpu_s, record.pace.work_left) == (1, 0.0, 10)
    assert (film.result.state, film.worker) == ("waiting", ""), "until it goes on: a paused run shows nothing at work"
    record.started("a", "w", "denoise")
    record.stepped("a", 1, 2, 2)
    record.segment_done("a", 3.0)
    assert (film.segments_done, film.result.gpu_s, record.pace.work_left) == (2, 3.0, 0)
    report = FilmReport(uri="u", sha256="s", num_frames=37, video_bytes=1, render_s=3.0, seconds=1.0, reused_segments=1)
    record.published("a", report)
    assert (film.result.gpu_s, film.result.reused_segments) == (3.0, 1)
    [row] = read_rows(dump_results([film.result]))
    assert row["reused_segments"] == 1
    assert result_of("a", row_of(film.result, render_key="k", segments_done=2), "u").reused_segments == 1


def test_findings_are_counted_by_film_and_kept_with_the_result(tmp_path):
    before = Result(job_id="z", state="done", findings=("cut@3",))
    record = RunProgress(RunSpec(run_id="r", output=str(tmp_path), ended=(before,)), open_store(tmp_path))
    film = record.add(entry("a", tmp_path))
    record.found("a", ("frozen@97-160", "frozen@3-40", "cut@5"))
    assert record.snapshot().findings == {"cut": 2, "frozen": 1}
    assert "frozen@97-160" in record.log.after(0)[-1].message
    record.found("a", ("cut@5",))
    assert record.snapshot().findings == {"cut": 2}
    [row] = read_rows(dump_results([film.result]))
    assert row["findings"] == ["cut@5"]
    stored = JobRow.from_dict(json.loads(json.dumps(row_of(film.result, render_key="k", segments_done=2).to_dict())))
    assert result_of("a", stored, "u").findings == ("cut@5",)
    record.ended("a", State.FAILED, error_class="FindingsError", message="m", attempts=1)
    record.requeue("a")
    assert record.snapshot().findings == {"cut": 1}
