"""What is found out about a run's jobs before anything is rendered, and a store that fails meanwhile."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
from PIL import Image

from render_farm.errors import StorageError
from render_farm.farm.driver.prepare import Preparation, PreparedRun, RunContext, prepare
from render_farm.farm.run.film_task import FilmTask, TriedSeed
from render_farm.farm.run.progress import RunProgress
from render_farm.farm.run.spec import FilmEntry, RunSpec
from render_farm.job import RenderJob
from render_farm.manifest.rows import Row, make_row
from render_farm.planning import FilmPlan, ModelSpec, spec_of_preset
from render_farm.planning.group_choice import FilmGroups
from render_farm.planning.groups import group_of
from render_farm.storage import open_store
from render_farm.storage.run_state import StoredRun


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


def prepared(folder, *, failures: int = 0, patience_s: float = 0.0, **columns):
    left = [failures]

    def spec_of(model: str) -> ModelSpec:
        left[0] -= 1
        if left[0] >= 0:
            raise StorageError("s3://b/model: the store does not answer properly (503)")
        return spec_of_preset("tiny", fingerprint="f")

    rows = [Row(number=1, job_id="a", job=RenderJob(job_id="a", prompt="p", **columns))]
    return prepare(rows, context_of(folder, patience_s=patience_s), spec_of)


def test_a_model_s_store_that_fails_for_a_moment_fails_no_job(tmp_path):
    assert len(prepared(tmp_path, failures=1, patience_s=60.0).entries) == 1


def test_one_that_stays_away_fails_the_model_s_jobs_alone(tmp_path):
    [result] = prepared(tmp_path, failures=100, patience_s=0.0).ended
    assert (result.error_class, "row 1" in str(result.message)) == ("StorageError", True)


def sorted_rows(folder, *rows: Row):
    return prepare(rows, context_of(folder), lambda model: spec_of_preset("tiny", fingerprint="f"))


def test_a_bad_row_fails_alone_under_an_id_of_its_own(tmp_path):
    bad = [make_row(1, {"job_id": "bad id!", "prompt": "p"}), make_row(2, {"prompt": "p"})]
    good = make_row(3, {"job_id": "row-2", "prompt": "p"})
    done = sorted_rows(tmp_path, *bad, good)
    assert [result.job_id for result in done.ended] == ["row-1", "row-2-bad"]
    assert [entry.task.plan.job.job_id for entry in done.entries] == ["row-2"]
    assert "row 1 (job_id=bad id!): job_id: " in str(done.ended[0].message)


def test_ids_that_differ_in_case_are_refused_where_the_output_folds_it(tmp_path, monkeypatch):
    rows = [make_row(n, {"job_id": name, "prompt": "p"}) for n, name in ((1, "Shot"), (2, "shot"))]
    rows[1] = replace(rows[1], case_twin="Shot")
    both = sorted_rows(tmp_path, *rows)
    assert "differ only in upper and lower case" in both.entries[1].task.plan.warnings[0]
    monkeypatch.setattr("render_farm.farm.driver.prepare.folds_case", lambda store: True)
    [failed] = sorted_rows(tmp_path, *rows).ended
    assert failed.job_id == "shot" and "does not tell them apart" in str(failed.message)


def test_films_that_may_share_segments_have_their_keys(tmp_path):
    """By prompt and seed, with which what they share begins."""
    films = {
        "whole": {"shots": [{"prompt": "x"}, {"prompt": "y", "cut": True, "seed": 5}]},
        "take": {"prompt": "y", "seed": 5},
        "other": {"prompt": "y", "seed": 6},
    }
    rows = [make_row(n, {"job_id": name, **columns}) for n, (name, columns) in enumerate(films.items(), start=1)]
    keys = {entry.task.job_id: entry.segment_keys for entry in sorted_rows(tmp_path, *rows).entries}
    assert keys["whole"][1:] == keys["take"] and len(keys["whole"]) == 2
    assert keys["other"] == ()


def test_a_run_that_continues_does_not_make_the_films_again_that_its_checks_rejected(tmp_path):
    rows = [make_row(1, {"job_id": "a", "prompt": "p", "seed": 7, "checks": "retry:2"})]

    def task(state: StoredRun) -> FilmTask:
        context = context_of(tmp_path, state=state)
        return prepare(rows, context, lambda model: spec_of_preset("tiny", fingerprint="f")).entries[0].task

    first = task(StoredRun())
    progress = RunProgress(RunSpec(run_id="night", output=str(tmp_path)), open_store(tmp_path))
    progress.add(FilmEntry(task=first, costs=(10,)))
    progress.rejected("a", ("cut@3",), 2.0)
    durable = progress.pop_dirty({})
    second = task(StoredRun(number=1, jobs=durable))
    assert (second.plan.job.seed, second.render_key) == (8, first.render_key)
    assert second.tried == (TriedSeed(seed=7, findings=("cut@3",), seconds=2.0),)
    changed = {"a": replace(durable["a"], render_key="of another film")}
    assert task(StoredRun(number=1, jobs=changed)) == first


def test_drafts_are_planned_as_drafts(tmp_path):
    rows = [make_row(1, {"job_id": "a", "prompt": "p", "num_frames": 257})]
    context = context_of(tmp_path, first_segments=2)
    [entry] = prepare(rows, context, lambda model: spec_of_preset("tiny", fingerprint="f")).entries
    assert (entry.task.plan.num_segments, len(entry.costs)) == (2, 2)


def test_a_portrait_picture_in_a_landscape_film_is_said(tmp_path):
    Image.new("RGB", (48, 64)).save(tmp_path / "tall.png")
    [entry] = prepared(tmp_path, image=str(tmp_path / "tall.png"), height=64, width=96).entries
    [warning] = entry.task.plan.warnings
    assert warning.startswith("image: is portrait (48x64) in a landscape film (96x64), so that fit crop cuts off")
    [entry] = prepared(tmp_path, image=str(tmp_path / "tall.png"), height=96, width=64).entries
    assert entry.task.plan.warnings == ()


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


def test_what_is_ready_comes_in_batches_the_most_urgent_first(tmp_path, monkeypatch):
    Image.new("RGB", (48, 64)).save(tmp_path / "a.png")
    picture, gone = str(tmp_path / "a.png"), str(tmp_path / "gone.png")
    columns = [{"image": picture}, {"image": gone}, {"image": picture, "priority": 90}, {}]
    jobs = [RenderJob(job_id=name, prompt="p", **given) for name, given in zip("abcd", columns, strict=True)]
    rows = [Row(number=number, job_id=job.job_id, job=job) for number, job in enumerate(jobs, start=1)]
    monkeypatch.setattr("render_farm.farm.driver.prepare._INPUTS_AT_ONCE", 1)
    preparation = Preparation(rows, context_of(tmp_path), lambda model: spec_of_preset("tiny", fingerprint="f"))
    assert [entry.task.job_id for entry in preparation.upcoming] == ["c", "a", "b", "d"]
    batches = preparation.batches(every_s=0.0)
    first = next(batches)
    assert [entry.task.job_id for entry in first.entries] == ["c"]
    assert first.num_left == 3
    assert [entry.task.job_id for entry in preparation.upcoming] == ["a", "b", "d"]
    rest = list(batches)
    assert [batch.num_left for batch in rest] == [2, 1, 0]
    whole = reduce(PreparedRun.joined, [first, *rest])
    assert sorted(whole.render_keys) == ["a", "c", "d"]
    assert [result.job_id for result in whole.ended] == ["b"]
    assert whole.num_left == 0
    at_once = prepare(rows, context_of(tmp_path), lambda model: spec_of_preset("tiny", fingerprint="f"))
    assert [entry.task.job_id for entry in at_once.entries] == ["a", "c", "d"], "in the manifest's order"
    assert at_once.render_keys == whole.render_keys
