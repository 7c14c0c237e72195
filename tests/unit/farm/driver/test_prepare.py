"""A store that fails while a run's models are looked at, before anything is rendered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm.errors import StorageError
from render_farm.farm.driver.prepare import RunContext, prepare
from render_farm.job import RenderJob
from render_farm.manifest.rows import Row
from render_farm.planning import FilmPlan, ModelSpec, spec_of_preset
from render_farm.planning.group_choice import FilmGroups
from render_farm.planning.groups import group_of
from render_farm.storage import open_store


def context_of(folder, **values) -> RunContext:
    return RunContext(
        run_id="night",
        output=str(folder / "out"),
        store=open_store(folder / "out"),
        keep_latents=False,
        create_only=True,
        group={},
        **values,
    )


def prepared(folder, *, failures: int, patience_s: float):
    left = [failures]

    def spec_of(model: str) -> ModelSpec:
        left[0] -= 1
        if left[0] >= 0:
            raise StorageError("s3://b/model: the store does not answer properly (503)")
        return spec_of_preset("tiny", fingerprint="f")

    rows = [Row(number=1, job_id="a", job=RenderJob(job_id="a", prompt="p"))]
    return prepare(rows, context_of(folder, patience_s=patience_s), spec_of)


def test_a_model_s_store_that_fails_for_a_moment_fails_no_job(tmp_path):
    assert len(prepared(tmp_path, failures=1, patience_s=60.0).entries) == 1


def test_one_that_stays_away_fails_the_model_s_jobs_alone(tmp_path):
    [result] = prepared(tmp_path, failures=100, patience_s=0.0).ended
    assert (result.error_class, "row 1" in str(result.message)) == ("StorageError", True)


@pytest.mark.parametrize("broken", ["model", "groups"])
def test_an_exception_that_nobody_foresaw_fails_its_row_alone(tmp_path, caplog, broken):
    def spec_of(model: str) -> ModelSpec:
        if model == "bad":
            raise RuntimeError("no home directory")
        return spec_of_preset("tiny", fingerprint="f")

    def groups_of(plan: FilmPlan) -> FilmGroups:
        if broken == "groups" and plan.job.job_id == "a":
            raise ZeroDivisionError("division by zero")
        return FilmGroups(group=group_of(plan.job))

    models = ("bad" if broken == "model" else "tiny", "tiny")
    jobs = [RenderJob(job_id=name, prompt="p", model=model) for name, model in zip("ab", models, strict=True)]
    found = prepare(
        [Row(number=number, job_id=job.job_id, job=job) for number, job in enumerate(jobs, start=1)],
        replace(context_of(tmp_path), groups_of=groups_of),
        spec_of,
    )
    assert [entry.task.job_id for entry in found.entries] == ["b"]
    [failed] = found.ended
    assert (failed.job_id, failed.state) == ("a", "failed")
    assert str(failed.message).startswith("row 1 (job_id=a): ")
    assert failed.error_class in str(failed.message)
    assert "Traceback" in caplog.text
