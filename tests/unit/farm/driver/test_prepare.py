"""A store that fails while a run's models are looked at, before anything is rendered."""

from __future__ import annotations

from render_farm.errors import StorageError
from render_farm.farm.driver.prepare import RunContext, prepare
from render_farm.job import RenderJob
from render_farm.manifest.rows import Row
from render_farm.planning import ModelSpec, spec_of_preset
from render_farm.storage import open_store


def prepared(folder, *, failures: int, patience_s: float):
    left = [failures]

    def spec_of(model: str) -> ModelSpec:
        left[0] -= 1
        if left[0] >= 0:
            raise StorageError("s3://b/model: the store does not answer properly (503)")
        return spec_of_preset("tiny", fingerprint="f")

    context = RunContext(
        run_id="night",
        output=str(folder / "out"),
        store=open_store(folder / "out"),
        keep_latents=False,
        create_only=True,
        group={},
        patience_s=patience_s,
    )
    return prepare([Row(number=1, job_id="a", job=RenderJob(job_id="a", prompt="p"))], context, spec_of)


def test_a_model_s_store_that_fails_for_a_moment_fails_no_job(tmp_path):
    assert len(prepared(tmp_path, failures=1, patience_s=60.0).entries) == 1


def test_one_that_stays_away_fails_the_model_s_jobs_alone(tmp_path):
    [result] = prepared(tmp_path, failures=100, patience_s=0.0).ended
    assert (result.error_class, "row 1" in str(result.message)) == ("StorageError", True)
