"""A run's progress: the sums that it keeps are those of its films."""

from __future__ import annotations

import random
from collections import Counter

from render_farm.farm.run.progress import RunProgress
from render_farm.farm.run.spec import RunSpec
from render_farm.scheduling.states import MOVES, State
from render_farm.storage.open import open_store
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
