"""Rows of drafts: their ids, their seeds, and the manifest of a run that renders them."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.job import RenderJob, default_seed
from render_farm.manifest.drafts import as_draft, draft_manifest, draft_rows, original_id
from render_farm.manifest.rows import make_row


def draft_row(row):
    return draft_rows([row], [row])[0]


def test_a_draft_has_an_id_of_its_own_and_the_seed_of_its_film():
    row = draft_row(make_row(1, {"job_id": "a", "prompt": "x"}))
    assert row.job == RenderJob(job_id="a.draft", prompt="x", seed=default_seed("a"))
    assert (row.job_id, original_id(row.job_id)) == ("a.draft", "a")
    assert as_draft(make_row(1, {"job_id": "a.draft", "prompt": "x"})).job == row.job, "of a run that is continued"
    given = draft_row(make_row(1, {"job_id": "a", "prompt": "x", "seed": 3})).job
    assert given is not None and given.seed == 3


def test_checks_of_a_draft_try_no_other_seed():
    """The film would start again from the row's own."""
    for given, expected in (("retry:3", "mark"), ("fail", "fail"), (None, None)):
        job = draft_row(make_row(1, {"job_id": "a", "prompt": "x", "checks": given})).job
        assert job is not None and job.checks == expected


def test_a_bad_row_stays_one():
    row = draft_row(make_row(1, {"job_id": "a", "prompt": "x", "seed": -1}))
    assert (row.job, row.job_id) == (None, "a.draft") and "seed" in row.lines[0]
    long = draft_row(make_row(1, {"job_id": "a" * 125, "prompt": "x"}))
    assert long.job is None and "job_id" in long.lines[0]
    nameless = draft_row(make_row(1, {"prompt": "x"}))
    assert (nameless.job_id, nameless.job) == ("", None)


def test_the_manifest_of_drafts_differs_in_its_ids_only():
    table = pa.table({"prompt": ["x", "y", None], "job_id": ["a", "b", None], "zzz": [1, 2, 3]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    found = pq.read_table(io.BytesIO(draft_manifest(sink.getvalue())))
    assert found["job_id"].to_pylist() == ["a.draft", "b.draft", None]
    assert found.column_names == table.column_names and found.drop_columns("job_id") == table.drop_columns("job_id")


def test_ids_that_cannot_be_those_of_drafts_stay_in_the_manifest():
    bad = pa.array([b"a", b"\xff\xfe", b"b" * 125, None], pa.binary()).view(pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table({"job_id": bad}), sink)
    found = pq.read_table(io.BytesIO(draft_manifest(sink.getvalue())))["job_id"].cast(pa.binary()).to_pylist()
    assert found == [b"a.draft", b"\xff\xfe", b"b" * 125, None]


def test_a_draft_with_the_name_of_another_job_is_refused():
    manifest = [make_row(number, {"job_id": name, "prompt": "x"}) for number, name in ((1, "a"), (4, "a.draft"))]
    rows = draft_rows(manifest, manifest)
    assert rows[0].job is None and rows[1].job is not None
    assert rows[0].lines == (
        "row 1 (job_id=a.draft): job_id: a.draft is the job of row 4 too, and its film would take this draft's place. "
        "Another id for that job would work",
    )
    assert rows[1].job_id == "a.draft.draft"
    assert draft_rows(manifest[:1], manifest)[0].lines == rows[0].lines, "also where the other is not rendered now"
