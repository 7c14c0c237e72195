"""`--where`, `--limit` and `--canary`."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import UsageError
from render_farm.job import RenderJob
from render_farm.manifest.rows import Row, make_row
from render_farm.manifest.selection import first_of_each, parse_where, rows_of_parquet, select

JOB = RenderJob(
    job_id="a",
    prompt=["a red fox", "a blue fox"],
    owner="ads",
    num_frames=257,
    fps=24,
    tags={"show": "1"},
    deadline="2030-01-31T06:00:00Z",
    quality=7.5,
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("owner == 'ads' and num_frames > 97", True),
        ("owner != 'ads'", False),
        ("not owner == 'ads' or fps == 24", True),
        ("num_frames >= 257", True),
        ("97 < num_frames < 300", True),
        ("num_frames in [97, 257]", True),
        ("owner not in ('ads', 'film')", False),
        ("seed is None", True),
        ("seed != None", False),
        ("seed > 3", False),
        ("seed < 3", False),
        ("quality > 7", True),
        ("'blue' in prompt", True),
        ("'green' in prompt", False),
        ("tags['show'] == '1'", True),
        ("tags['none'] == None", True),
        ("'show' in tags", True),
        ("deadline < '2030-02-01T00:00:00Z'", True),
        ("deadline < '2030-01-01'", False),
        ("keep_overlap", False),
        ("num_frames == -1", False),
        ("job_id == 'a'", True),
        ("prompt == ['a red fox', 'a blue fox']", True),
        ("prompt != ['a red fox', 'a blue fox']", False),
        ("prompt == ['a red fox']", False),
    ],
)
def test_what_holds_for_a_job(text, holds):
    assert parse_where(text)(JOB) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_frame > 97", "did you mean num_frames?"),
        ("__import__('os').system('true')", "is not a condition"),
        ("owner.upper() == 'ADS'", "is neither a column nor a value"),
        ("(lambda: 1)()", "is not a condition"),
        ("num_frames + 1 > 2", "is neither a column nor a value"),
        ("num_frames > 'many'", "a column of numbers"),
        ("owner == ads", "'ads' is not a column"),
        ("owner == 3", "put it in quotes"),
        ("seed > None", "neither less nor more"),
        ("deadline > 'soon'", "is not a time"),
        ("num_frames >", "is not an expression"),
        ("", "is not an expression"),
        ("x" * 3000, "3,000 characters"),
        ("(" * 900 + "1" + ")" * 900, "is not an expression"),
        ("97", "is not a condition"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(UsageError, match=r"--where") as caught:
        parse_where(text)
    assert message in str(caught.value)


def rows(*jobs: dict) -> list[Row]:
    return [make_row(number, {"prompt": "p", **values}) for number, values in enumerate(jobs, 1)]


def test_a_limit_counts_the_rows_that_are_left():
    found = rows({"job_id": "a", "fps": 8}, {"job_id": "b", "fps": 0}, {"job_id": "c", "fps": 24}, {"job_id": "d"})
    assert [row.job_id for row in select(found, where=None, limit=2)] == ["a", "b"]
    assert [row.job_id for row in select(found, where="fps > 1", limit=None)] == ["a", "c"]
    assert [row.job_id for row in select(found, where="fps > 1", limit=1)] == ["a"]


def test_the_films_that_are_rendered_first_are_of_all_kinds():
    found = rows(
        {"job_id": "a"},
        {"job_id": "bad", "fps": 0},
        {"job_id": "b"},
        {"job_id": "c", "model": "tiny"},
        {"job_id": "d", "image": "x.png"},
        {"job_id": "e", "loras": [{"path": "l.safetensors"}]},
    )
    assert first_of_each(found, 2) == ("a", "c")
    assert first_of_each(found, 4) == ("a", "c", "d", "e")
    assert first_of_each(found, 5) == ("a", "b", "c", "d", "e")
    assert len(first_of_each(found, 99)) == 5


def test_a_manifest_keeps_the_rows_that_are_rendered():
    sink = io.BytesIO()
    pq.write_table(pa.table({"job_id": ["a", "b", "c"], "prompt": [["x"], ["y", "z"], ["w"]]}), sink)
    kept = pq.read_table(io.BytesIO(rows_of_parquet(sink.getvalue(), [3, 1]))).to_pylist()
    assert kept == [{"job_id": "a", "prompt": ["x"]}, {"job_id": "c", "prompt": ["w"]}]
