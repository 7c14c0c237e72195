"""Whatever a cell holds, a row is a job or a list of problems; and what is written is what is read."""

from __future__ import annotations

from datetime import UTC, datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render_farm.errors import InvalidJobError, ManifestError
from render_farm.job import LoraRef, RenderJob, ValueKind, columns, normalise
from render_farm.manifest.build import build_manifest
from render_farm.manifest.reader import check_manifest, load_manifest
from render_farm.manifest.rows import make_row
from render_farm.manifest.schema import check_schema
from render_farm.manifest.writer import write_manifest
from render_farm.shots import Shot
from tests.helpers.fuzzing import arrow_columns, num_examples

QUICK = settings(max_examples=num_examples(300), deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(QUICK, max_examples=num_examples(60))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "L"]), max_size=5),
    st.binary(max_size=5),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.dates(),
    st.sampled_from(["tiny", "t2v", "", " ", "2030-01-01", "0001-01-01T00:00:00+14:00", "9" * 400, "nan"]),
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
rows = st.dictionaries(st.sampled_from(list(columns())), anything, max_size=12)


@pytest.mark.slow
@QUICK
@given(rows)
def test_make_row_never_raises(values):
    row = make_row(1, values)
    assert (row.job is None) == bool(row.problems)
    for line in row.lines:
        assert line.startswith("row 1") and "\n" not in line.split(": ", 1)[0]
        line.encode(errors="backslashreplace")


@pytest.mark.slow
@QUICK
@given(rows)
def test_a_job_raises_invalid_job_error_and_nothing_else(values):
    values = {"job_id": "a", "prompt": "p", **values}
    try:
        job = RenderJob(**values)
    except (InvalidJobError, OverflowError):
        return  # OverflowError: an integer no float can hold; `make_row` says so field by field
    again, problems = normalise({name: getattr(job, name) for name in columns()})
    assert not problems and RenderJob(**again) == job


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
times = st.datetimes(
    datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.sampled_from([UTC, timezone.min, timezone.max])
)
paths = text.map(lambda name: f"/{name}")
loras = st.lists(st.builds(LoraRef, path=paths, weight=st.floats(-10, 10)), max_size=3).map(tuple)
fields_of_shots = st.fixed_dictionaries(
    {
        "prompt": text,
        "num_frames": st.none() | st.integers(1, 100_000),
        "cut": st.booleans(),
        "seed": st.none() | st.integers(0, 2**63 - 1),
        "guidance_scale": st.none() | st.floats(0, 100),
    }
)
shots = st.lists(
    fields_of_shots.flatmap(
        lambda fields: st.just("/in/b.png" if fields["cut"] else None).map(lambda image: Shot(**fields, image=image))
    ),
    min_size=1,
    max_size=4,
).map(tuple)
BY_KIND = {
    ValueKind.TEXT: text.filter(str.strip),
    ValueKind.INTEGERS: st.sets(st.integers(1, 1000), min_size=1).map(lambda steps: tuple(sorted(steps, reverse=True))),
    ValueKind.BOOLEAN: st.booleans(),
    ValueKind.TIMESTAMP: times,
    ValueKind.TAGS: st.dictionaries(text, text, max_size=3),
    ValueKind.LORAS: loras,
    ValueKind.SHOTS: shots,
}
FIXED = {
    "job_id": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    "prompt": text | st.lists(text, min_size=2, max_size=4).map(tuple),
    "height": st.integers(1, 512).map(lambda n: n * 16),
    "width": st.integers(1, 512).map(lambda n: n * 16),
    "image": st.just("/in/a.png"),
    "last_image": st.just("s3://b/c.png"),
    "video": st.just("https://host/v.mp4"),
    "memory": st.sampled_from(["auto", "resident", "offload_block+fp8_cast", "offload_leaf+vae_tiling"]),
    "cache": st.sampled_from(["off", "first_block:0.1", "mag:0.06"]),
    "drift": st.sampled_from(["off", "adain:0.25"]),
    "checks": st.sampled_from(["mark", "fail", "retry:3", "off"]),
}


def column_strategy(name):
    column = columns()[name]
    if name in FIXED:
        strategy = FIXED[name]
    elif column.choices:
        strategy = st.sampled_from(column.choices)
    elif column.kind is ValueKind.INTEGER:
        strategy = st.integers(int(column.low or 0), int(min(column.high or 2**63 - 1, 2**63 - 1)))
    elif column.kind is ValueKind.NUMBER:
        strategy = st.floats(column.low, column.high)
    else:
        strategy = BY_KIND[column.kind]
    return strategy if name in ("job_id", "prompt") else st.none() | strategy


def job_of(values):
    """With shots, without what they have themselves."""
    return RenderJob(**values | ({"prompt": None, "num_frames": None, "image": None} if values["shots"] else {}))


jobs = st.lists(
    st.fixed_dictionaries({name: column_strategy(name) for name in columns()}).map(job_of),
    min_size=1,
    max_size=5,
    unique_by=lambda job: job.job_id,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all cases: pytest looks through all folders to name another."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.slow
@FEW
@given(jobs)
def test_round_trip_is_exact_and_the_bytes_are_the_same(folder, written):
    one, two = str(folder / "one.parquet"), str(folder / "two.parquet")
    assert write_manifest(one, written) == len(written)
    assert [row.job for row in load_manifest(one, strict=True)] == written
    assert write_manifest(two, iter(written)) == len(written)
    assert (folder / "one.parquet").read_bytes() == (folder / "two.parquet").read_bytes()


@FEW
@given(st.dictionaries(st.sampled_from([*columns(), "unknown"]), arrow_columns, max_size=6))
def test_any_parquet_file_gives_a_report(folder, given_columns):
    path = str(folder / "m.parquet")
    table = pa.table({"job_id": ["a", "b"], "prompt": ["p", "q"], **given_columns})
    pq.write_table(table, path)
    report = check_manifest(path)
    if check_schema(table.schema)[1]:
        assert report.fatal
    assert report.ok == (not report.problems)


SPELLINGS = [
    "010",
    "0x1F",
    "1_000",
    "12:30",
    "1e3",
    "1e400",
    "-0",
    ".5",
    ".inf",
    ".nan",
    "nan",
    "9007199254740993.0",
    "~",
    "null",
    "yes",
    "Off",
    "2030-13-01",
    "2030-01-01T25:00",
    "!!int",
    "!!float",
    "!!binary",
    "!!set",
    "!!timestamp",
    "!!null",
    "&a",
    "*a",
    "<<",
    "|",
    ">",
    "[",
    "]",
    "{",
    "}",
    "[x,1]",
    "{a:1}",
    "['x']",
    "[x, {a: [1]}]",
    "[{path: x, weight: 1e400}]",
    "('x', 'y')",
    "{a: 1, a: 2}",
    "!!set {a}",
    "!!omap [a: 1]",
]
spelt = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(SPELLINGS),
    st.from_regex(r"[-+.0-9eE_:x]{1,12}", fullmatch=True),
)


def builds_or_refuses(folder, name: str, content: str) -> None:
    """A manifest that reads back, or an error of the farm's own with lines."""
    source, target = folder / name, folder / "built.parquet"
    source.write_bytes(content.encode(errors="replace"))
    try:
        build_manifest(str(source), str(target))
    except ManifestError as error:
        assert len(str(error)) < 20_000
        return
    assert load_manifest(str(target), strict=True)


@FEW
@given(st.dictionaries(st.sampled_from(list(columns())), spelt, max_size=5), st.booleans())
def test_any_yaml_is_built_or_refused(folder, given_columns, in_flow):
    values = {"prompt": "p", **given_columns}
    if in_flow:
        content = "- {" + ", ".join(f"{name}: {text}" for name, text in values.items()) + "}\n"
    else:
        content = "- " + "\n  ".join(f"{name}: {text}" for name, text in values.items()) + "\n"
    builds_or_refuses(folder, "p.yaml", content)


@pytest.mark.slow
@FEW
@given(st.lists(st.tuples(st.sampled_from(list(columns())), spelt), max_size=5), st.booleans())
def test_any_csv_is_built_or_refused(folder, cells, quoted):
    cells = [*dict(cells).items()]
    texts = ['"' + text.replace('"', '""') + '"' if quoted else text for _, text in cells]
    header = ",".join(["prompt", *(name for name, _ in cells if name != "prompt")])
    row = ",".join(["p", *(text for (name, _), text in zip(cells, texts, strict=True) if name != "prompt")])
    builds_or_refuses(folder, "p.csv", f"{header}\n{row}\n")
