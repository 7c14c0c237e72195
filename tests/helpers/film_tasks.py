"""Tasks for workers, as a coordinator hands them out."""

from __future__ import annotations

from pathlib import Path

from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.timeouts import Timeouts
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.storage.open import open_store
from tests.helpers import films

# A worker that is asked to end stops at once, and a store that fails is not tried again.
TIMEOUTS = Timeouts(cluster_patience_s=0.0, preemption_grace_s=0.0)


def film_task(engine, output: Path, job_id: str = "a", **values) -> FilmTask:
    """A film whose prompts are encoded already."""
    plan = engine.plan(films.job(job_id, **{**films.THREE_SEGMENTS, **values}))
    task = FilmTask(run_id="r", output=str(output), model="tiny", plan=plan, keep_latents=True, timeouts=TIMEOUTS)
    stored = EmbeddingStore(open_store(task.output), "r", engine.spec.fingerprint)
    for text, embedding in engine.encode_prompts(stored.missing(plan.texts)).items():
        stored.save(text, embedding)
    return task
