"""Entries of a run's videos, as a driver adds them."""

from __future__ import annotations

from pathlib import Path

from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.spec import FilmEntry
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset


def entry(job_id: str, output: Path, deadline_s: float | None = None) -> FilmEntry:
    job = RenderJob(job_id=job_id, prompt="a red circle", num_frames=37, base_num_frames=21, overlap_history=5)
    plan = plan_film(job, spec_of_preset("tiny"))
    task = FilmTask(run_id="night", output=str(output), model="tiny", plan=plan)
    return FilmEntry(task=task, costs=(10, 10), deadline_s=deadline_s)
