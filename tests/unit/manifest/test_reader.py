"""Reading Parquet manifests: what is accepted, and the exact words for what is not."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import ManifestError
from render_farm.job import LoraRef, RenderJob, columns
from render_farm.manifest.reader import check_manifest, load_manifest, read_manifest
from render_farm.manifest.schema import manifest_schema, unknown_columns


@pytest.fixture
def store(tmp_path):
    """Write columns (name to values or Arrow array) as a Parquet file and return its path."""

    def write(metadata=None, **given) -> str:
        rows = max((len(values) for values in given.values()), default=1)
        given = {"job_id": [f"j{i}" for i in range(rows)], "prompt": ["p"] * rows, **given}
        table = pa.table({name: values for name, values in given.items() if values is not None})
        path = str(tmp_path / "m.parquet")
        pq.write_table(table.replace_schema_metadata(metadata), path, store_schema=True)
        return path

    return write


def only_job(uri: str) -> RenderJob:
    (row,) = load_manifest(uri, strict=True)
    assert row.job is not None
    return row.job


def fatal(uri: str) -> list[str]:
    """The lines of the error, which `check_manifest` must report as well."""
    with pytest.raises(ManifestError) as caught:
        load_manifest(uri)
    assert caught.value.exit_code == 2
    assert check_manifest(uri).fatal == caught.value.problems
    return list(caught.value.problems)


# --- the contract's words ---


def test_all_errors_of_all_rows_come_at_once(store):
    uri = store(job_id=["ok", "b", "a", None, "../x"], num_frames=[9, 5, 0, 5, 5], height=[64, 17, 64, 64, 64])
    report = check_manifest(uri)
    assert report.num_rows == 5 and report.num_bad_rows == 4 and report.fatal == () and report.readable
    assert report.row_problems == (
        "row 2 (job_id=b): height: 17 is not a multiple of 16; the nearest are 16 and 32",
        "row 3 (job_id=a): num_frames: 0 is less than 1",
        "row 4: job_id: is required",
        "row 5 (job_id=../x): job_id: '../x' must be 1 to 128 letters, digits, '.', '_' or '-', "
        "and start with a letter or digit",
    )


def test_bad_rows_come_beside_good_ones_and_strict_refuses_them(store):
    uri = store(job_id=["a", "b"], num_frames=[0, 5])
    bad, good = load_manifest(uri)
    assert bad.job is None and bad.lines == ("row 1 (job_id=a): num_frames: 0 is less than 1",)
    assert good.job == RenderJob(job_id="b", prompt="p", num_frames=5) and good.lines == ()
    with pytest.raises(ManifestError) as caught:
        load_manifest(uri, strict=True)
    assert str(caught.value) == f"{uri}: 1 problem\nrow 1 (job_id=a): num_frames: 0 is less than 1"


def test_duplicates_name_both_rows(store):
    uri = store(job_id=["a", "b", "a", "c", "b", "a"])
    assert fatal(uri) == [
        "row 3 (job_id=a): job_id: is the same as in row 1",
        "row 5 (job_id=b): job_id: is the same as in row 2",
        "row 6 (job_id=a): job_id: is the same as in row 1",
    ]


def test_unknown_columns_are_named_with_the_nearest(store):
    uri = store(num_frame=[1], Guidance=[1.0], zzzz=[1])
    first, second, third = fatal(uri)
    assert first == "column num_frame: is not known; did you mean num_frames?"
    assert second == "column Guidance: is not known; did you mean guidance_scale?"
    assert unknown_columns(["steps"]) == ["column steps: is not known; did you mean num_inference_steps?"]
    assert third == f"column zzzz: is not known; known columns are {', '.join(columns())}"


def test_missing_columns_are_schema_errors(tmp_path):
    path = str(tmp_path / "m.parquet")
    pq.write_table(pa.table({"num_frames": [1]}), path)
    assert fatal(path) == [
        "column job_id: is missing, and every job needs it",
        "column prompt: is missing, and every job needs it",
    ]


def test_a_column_may_not_be_there_twice(tmp_path):
    path = str(tmp_path / "m.parquet")
    names = ["job_id", "prompt", "seed", "seed"]
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["p"]), pa.array([1]), pa.array([2])], names), path)
    assert fatal(path) == ["column seed: appears twice"]


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("num_frames", ["9"], "has type string, but needs an integer type (int64), or floats without a fraction"),
        ("guidance_scale", ["6"], "has type string, but needs a float or integer type (double)"),
        ("model", [3], "has type int64, but needs string"),
        ("prompt", [3], "has type int64, but needs string or list<string>"),
        ("keep_overlap", [1], "has type int64, but needs bool"),
        ("num_frames", [True], "has type bool, but needs an integer type (int64), or floats without a fraction"),
        ("deadline", [3], "has type int64, but needs timestamp in UTC, or text like 2030-01-31T06:00:00Z"),
        ("tags", ["x"], "has type string, but needs map<string, string>"),
        ("tags", [{"a": 1}], "has type struct<a: int64>, but needs map<string, string>"),
        ("loras", [["x"]], "has type list<element: string>, but needs list<struct<path: string, weight: double>>"),
        ("job_id", [b"a"], "has type binary, but needs string"),
        ("model", [0.5], "has type double, but needs string"),
        ("tags", [0.5], "has type double, but needs map<string, string>"),
    ],
)
def test_a_type_that_cannot_work_is_a_schema_error(store, name, values, line):
    assert fatal(store(**{name: values})) == [f"column {name}: {line}"]


# --- what is accepted ---


@pytest.mark.parametrize(
    "values",
    [
        pa.array([9], pa.int8()),
        pa.array([9], pa.uint64()),
        pa.array([9.0], pa.float16()),
        pa.array([9.0], pa.float32()),
        pa.array([Decimal("9.00")]),
        pa.array([9]).dictionary_encode(),
    ],
)
def test_any_width_of_number_is_an_integer_column(store, values):
    assert only_job(store(num_frames=values)).num_frames == 9


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_any_layout_of_text(store, kind):
    assert only_job(store(prompt=pa.array(["häuser"], kind))).prompt == "häuser"
    if kind != pa.string_view():
        assert only_job(store(model=pa.array(["tiny"], kind).dictionary_encode())).model == "tiny"


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_any_layout_of_prompt_lists(store, kind):
    assert only_job(store(prompt=pa.array([["a", "b"]], kind))).prompt == ("a", "b")


def test_a_prompt_list_of_one_is_that_prompt(store):
    assert only_job(store(prompt=[["a"]])).prompt == "a"


def test_prompt_lists_that_cannot_be_used_are_refused(store):
    report = check_manifest(store(prompt=pa.array([[], ["a", None], None], pa.list_(pa.string()))))
    assert report.row_problems == (
        "row 1 (job_id=j0): prompt: is an empty list; give at least one prompt",
        "row 2 (job_id=j1): prompt: is a list with an entry that is not text",
        "row 3 (job_id=j2): prompt: is required",
    )


NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *((pa.array([NOON.replace(tzinfo=None)], pa.timestamp(unit)), NOON) for unit in ("s", "ms", "us", "ns")),
        (pa.array([NOON], pa.timestamp("ns", "Europe/Berlin")), NOON),
        (pa.array([NOON], pa.timestamp("us", "+05:30")), NOON),
        (pa.array(["2030-01-31T13:00:00+01:00"]), NOON),
        (pa.array([date(2030, 1, 31)]), NOON.replace(hour=0)),
        (pa.array([date(2030, 1, 31)], pa.date64()), NOON.replace(hour=0)),
    ],
)
def test_times_of_any_unit_and_zone_are_utc(store, values, expected):
    assert only_job(store(deadline=values)).deadline == expected


def test_nanoseconds_and_far_times(store):
    far = pa.array([2**62, 1_893_456_000_123_456_789], pa.int64())
    assert only_job(store(deadline=far[1:].cast(pa.timestamp("ns")))).deadline == datetime.fromtimestamp(
        1_893_456_000, UTC
    ).replace(microsecond=123_456)
    report = check_manifest(store(deadline=far[:1].cast(pa.timestamp("ms"))))
    assert report.row_problems == ("row 1 (job_id=j0): deadline: is not within the years 1 to 9999",)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[("a", "1")]], pa.map_(pa.string(), pa.string())),
        pa.array([{"a": "1", "b": None}]),
        pa.array([[("a", "1")]], pa.map_(pa.large_string(), pa.large_string())),
    ],
)
def test_tags_are_maps_or_structs(store, values):
    assert only_job(store(tags=values)).tags == {"a": "1"}


def test_loras_of_a_row_are_read_and_checked(store):
    values = pa.array([[{"path": "/x", "weight": 0.5}, {"path": "/y", "weight": None}]])
    assert only_job(store(loras=values)).loras == (LoraRef(path="/x", weight=0.5), LoraRef(path="/y"))
    assert only_job(store(loras=pa.array([[{"path": "/x"}]]))).loras == (LoraRef(path="/x"),)
    assert only_job(store(loras=pa.array([[{"path": "/x", "weight": 2}]]))).loras == (LoraRef(path="/x", weight=2.0),)
    assert only_job(store(loras=pa.array([[{"path": "/x", "weight": float("nan")}]]))).loras == (LoraRef(path="/x"),)
    [row] = read_manifest(store(loras=pa.array([[{"path": "", "weight": 1.0}]])))
    assert "loras: has an empty path" in row.lines[0]
    [row] = read_manifest(store(loras=pa.array([[{"path": "/x", "weight": 1e39}]])))
    assert "loras: has a weight of 1e+39, which float32 does not hold" in row.lines[0]


def test_relative_paths_of_loras(store, tmp_path):
    paths = [{"path": path, "weight": 1.0} for path in ("in/a.safetensors", "/abs/b.safetensors", "s3://bucket/c")]
    loras = only_job(store(loras=pa.array([paths]))).loras
    expected = [str(tmp_path / "in/a.safetensors"), "/abs/b.safetensors", "s3://bucket/c"]
    assert [lora.path for lora in loras or ()] == expected


@pytest.mark.parametrize("name", [name for name in columns() if name not in ("job_id", "prompt")])
def test_empty_columns_may_be_of_type_null_or_nan(store, name):
    assert getattr(only_job(store(**{name: pa.nulls(1)})), name) is None
    assert getattr(only_job(store(**{name: [float("nan")]})), name) is None


def test_nan_is_null_and_fractions_are_refused_in_integer_columns(store):
    good, nan, bad = load_manifest(store(num_frames=[9.0, float("nan"), 9.5]))
    assert good.job and good.job.num_frames == 9
    assert nan.job and nan.job.num_frames is None
    assert bad.lines == ("row 3 (job_id=j2): num_frames: 9.5 is not a whole number",)


def test_pandas_index_columns_are_ignored(store):
    described = {"index_columns": ["__index_level_0__", "night", {"kind": "range", "start": 0}]}
    uri = store({"pandas": json.dumps(described)}, __index_level_0__=[7], night=["x"])
    assert only_job(uri).job_id == "j0"
    # An index that is named like a column is that column.
    assert only_job(store({"pandas": json.dumps({"index_columns": ["job_id"]})})).job_id == "j0"


@pytest.mark.parametrize("metadata", ["", "[]", "{}", '{"index_columns": 3}', "nonsense", "[" * 200_000])
def test_broken_pandas_metadata_does_not_matter(store, metadata):
    assert only_job(store({"pandas": metadata}, __index_level_0__=[1])).job_id == "j0"


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_texts_of_any_encoding(tmp_path, encoding):
    table = pa.table({"job_id": ["a", "b"], "prompt": ["a red fox", "a red cat"]})
    options = {"use_dictionary": False, "column_encoding": {"job_id": encoding, "prompt": encoding}}
    pq.write_table(table, tmp_path / "m.parquet", **options)
    assert [row.job.prompt for row in load_manifest(str(tmp_path / "m.parquet"))] == ["a red fox", "a red cat"]


def test_text_that_is_not_utf8_is_that_rows_problem(store):
    raw = pa.array([b"\xff\xfe", b"fine"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    report = check_manifest(store(prompt=broken))
    assert report.row_problems == ("row 1 (job_id=j0): prompt: is not UTF-8 text",)


def test_ids_that_would_break_a_line_are_escaped_in_messages(store):
    first, second = check_manifest(store(job_id=["a\nb", "x" * 300])).row_problems
    assert first.startswith("row 1 (job_id=a\\nb): job_id: 'a\\nb' must be")
    assert second.startswith(f"row 2 (job_id={'x' * 77}...): job_id: ")


def test_relative_inputs_are_resolved_against_the_manifest(store, tmp_path):
    uri = store(image=["in/a.png"], last_image=["/abs/b.png"], video=["s3://bucket/c.mp4"], task=["flf2v"])
    job = only_job(uri)
    assert (job.image, job.last_image, job.video) == (str(tmp_path / "in/a.png"), "/abs/b.png", "s3://bucket/c.mp4")


def test_rows_come_in_order_over_batches_and_row_groups(tmp_path):
    path = str(tmp_path / "m.parquet")
    table = pa.table({"job_id": [f"j{i}" for i in range(100)], "prompt": ["p"] * 100, "seed": list(range(100))})
    pq.write_table(table, path, row_group_size=7)
    rows = list(read_manifest(path, batch_size=3))
    assert [row.number for row in rows] == list(range(1, 101))
    assert [row.job.seed for row in rows if row.job] == list(range(100))


def test_a_manifest_without_rows_is_refused_by_every_reader(store):
    uri = store(job_id=pa.array([], pa.string()), prompt=pa.array([], pa.string()))
    report = check_manifest(uri)
    assert report.fatal == (f"{uri}: has no rows (a manifest has one row per job)",) and not report.readable
    with pytest.raises(ManifestError, match="has no rows"):
        load_manifest(uri)


def test_the_written_schema_has_every_column_in_order():
    schema = manifest_schema()
    assert schema.names == list(columns())
    assert schema.field("prompt").type == pa.string()
    assert manifest_schema(prompt_lists=True).field("prompt").type == pa.list_(pa.string())
