"""Kilobytes that stand for gigabytes: refused or read, in little memory. Each is measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import ManifestError
from render_farm.job import RenderJob
from render_farm.manifest.build import build_manifest
from render_farm.manifest.limits import ManifestLimits
from render_farm.manifest.reader import check_manifest, load_manifest
from render_farm.manifest.sources.read import read_source
from render_farm.manifest.writer import write_manifest

MOST_BYTES = 600 << 20
_MEASURE = """
import sys
from render_farm.errors import RenderFarmError
from render_farm.manifest.reader import check_manifest, load_manifest
try:
    said = "".join(line for row in load_manifest(sys.argv[1]) for line in row.lines)
except RenderFarmError as error:
    said = str(error)
report = check_manifest(sys.argv[1])
assert sum(map(len, report.problems)) < 1 << 20 and len(said) < 1 << 20
with open("/proc/self/status") as status:  # ru_maxrss counts the process that started this one
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
print(peak, said[:300].replace("\\n", " "))
"""


def one_long_value(num_rows: int):
    return pa.array(["x" * 500_000]).dictionary_encode().take(pa.array([0] * num_rows))


def ids(num_rows: int) -> list[str]:
    return [f"j{i}" for i in range(num_rows)]


BOMBS = {
    "a long value of many rows": (
        lambda: pa.table({"job_id": ids(4096), "prompt": one_long_value(4096)}),
        {},
        "has 500,000 characters; the most is 20,000",
    ),
    "a long value of many rows, in lists": (
        lambda: pa.table(
            {
                "job_id": ids(2000),
                "prompt": pa.ListArray.from_arrays(pa.array(range(2001), pa.int32()), one_long_value(2000)),
            }
        ),
        {},
        "has 500,000 characters; the most is 20,000",
    ),
    "a million equal rows": (
        lambda: pa.table({"job_id": ["a"] * 1_000_000, "prompt": ["p"] * 1_000_000}),
        {},
        "has 1,000,000 rows; the most is 200,000",
    ),
    "long texts that compress": (
        lambda: pa.table({"job_id": ids(800), "prompt": [f"{i}" + "x" * 500_000 for i in range(800)]}),
        {"use_dictionary": False, "compression": "zstd"},
        "bytes, its columns decompressed; the most is 268,435,456",
    ),
    "a list of very many prompts": (
        lambda: pa.table({"job_id": ["a"], "prompt": pa.array([["x"] * 5_000_000])}),
        {},
        "has 5,000,000 entries in the lists of one column; the most is 1,600,000",
    ),
    "bad rows with long ids": (
        lambda: pa.table({"job_id": [f"{i}" + " " * 1_000_000 for i in range(40)], "prompt": ["p"] * 40}),
        {"compression": "zstd"},
        "must be 1 to 128 letters",
    ),
    "bad rows with long texts": (
        lambda: pa.table(
            {"job_id": ids(40), **{name: one_long_value(40) for name in ("prompt", "model", "memory", "task", "cache")}}
        ),
        {},
        "has 500,000 characters; the most is 20,000",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_small_files_cost_little_memory(tmp_path, name):
    make, options, said = BOMBS[name]
    path = tmp_path / "m.parquet"
    pq.write_table(make(), path, **options)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    peak, _, message = done.stdout.partition(" ")
    print(f"{name}: {path.stat().st_size:,} bytes on disk, {int(peak) / 2**20:.0f} MiB: {message[:150]}")
    assert said in message
    assert int(peak) < MOST_BYTES


def test_every_limit_is_a_setting_and_its_error_names_it(tmp_path):
    write_manifest(str(tmp_path / "m.parquet"), [RenderJob(job_id=f"j{i}", prompt="p") for i in range(3)])
    (tmp_path / "m.csv").write_text("job_id,prompt\na,p\nb,q\n")
    (tmp_path / "m.yaml").write_text("- {job_id: a, prompt: p}\n- {job_id: b, prompt: q}\n")
    (tmp_path / "parts").mkdir()
    for name in "ab":
        write_manifest(str(tmp_path / "parts" / f"{name}.parquet"), [RenderJob(job_id=name, prompt="p")])
    cases = [
        ("m.parquet", {"max_rows": 2}, "has 3 rows; the most is 2"),
        ("m.parquet", {"max_bytes": 1000}, "decompressed; the most is 1,000"),
        ("m.parquet", {"max_header_bytes": 100}, "its footer has"),
        ("parts", {"max_parts": 1}, "more than 1 Parquet files"),
        ("m.csv", {"max_rows": 1}, "has more than 1 jobs"),
        ("m.csv", {"max_bytes": 10}, "has 22 bytes; the most is 10"),
        ("m.csv", {"max_cell_bytes": 5}, "larger than field limit"),
        ("m.yaml", {"max_document_bytes": 10}, "bytes; the most is 10"),
        ("m.yaml", {"max_document_values": 3}, "holds more than 3 values"),
    ]
    tried = {name for _, given, _ in cases for name in given}
    assert tried | {"max_problems"} == {item.name for item in fields(ManifestLimits)}
    for name, given, said in cases:
        limits, uri = ManifestLimits(**given), str(tmp_path / name)
        with pytest.raises(ManifestError) as refused:
            list(read_source(uri, limits)) if name.endswith(("csv", "yaml")) else load_manifest(uri, limits=limits)
        assert said in str(refused.value)
        [limit] = given
        assert limit == "max_cell_bytes" or f"raise {limit} in the settings' [manifest]" in str(refused.value)


def test_a_limit_of_lines_cuts_what_is_printed(tmp_path):
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"job_id": ["bad id"] * 9, "prompt": ["p"] * 9}), path)
    report = check_manifest(str(path), limits=ManifestLimits(max_problems=3))
    assert len(report.row_problems) == 4
    assert report.row_problems[-1].startswith("... and 6 more lines")


def thrift(number: int, length: int = 0) -> bytes:
    """A number as Thrift's compact protocol has it, in `length` bytes at least."""
    number, data = number << 1, bytearray()
    while number > 127 or len(data) + 1 < length:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


@pytest.mark.parametrize(
    ("table", "number", "times", "said"),
    [
        (lambda: pa.table({"job_id": ids(3000), "prompt": ["x"] * 3000}), 3000, 1, "has 3,000 rows; the most is 1,000"),
        (
            lambda: pa.table({"job_id": ["a"], "prompt": [["x"] * 70_000]}),
            70_000,
            -1,
            "has 70,000 entries in the lists",
        ),
    ],
)
def test_pages_count_where_a_footer_says_less(tmp_path, table, number, times, said):
    path = tmp_path / "m.parquet"
    pq.write_table(table(), path, write_statistics=False, store_schema=False, data_page_size=1 << 30)
    data = bytearray(path.read_bytes())
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = bytes(data[start:-8])
    honest = thrift(number)
    data[start:-8] = footer.replace(honest, thrift(5, len(honest)), times)
    path.write_bytes(data)
    about = pq.read_metadata(path)
    assert 5 in (about.num_rows, about.row_group(0).column(1).num_values)
    with pytest.raises(ManifestError, match=said):
        load_manifest(str(path), limits=ManifestLimits(max_rows=1000))


def list_of(text: str, count: int) -> str:
    return f"[{', '.join([text] * count)}]"


REPEATING = {
    "a list of the defaults": ("json", json.dumps({"defaults": {"prompt": ["x"] * 9}, "jobs": [{}] * 99})),
    "an alias of a list": ("yaml", f"- {{prompt: &p {list_of('x', 9)}}}\n" + "- {prompt: *p}\n" * 99),
    "an alias of a job": ("yaml", f"- &j {{prompt: {list_of('x', 9)}}}\n" + "- *j\n" * 99),
}


@pytest.mark.parametrize("name", REPEATING)
def test_what_a_source_repeats_is_counted_each_time(tmp_path, name):
    suffix, text = REPEATING[name]
    path = tmp_path / f"m.{suffix}"
    path.write_text(text)
    limits = ManifestLimits(max_rows=100)  # 800 entries in the lists of one column
    with pytest.raises(ManifestError, match=r"has more than 800 entries in its lists \(split it, or raise max_rows"):
        list(read_source(str(path), limits))


def test_long_texts_that_a_source_repeats_are_counted_each_time(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"defaults": {"prompt": "x" * 900}, "jobs": [{}] * 99}))
    with pytest.raises(ManifestError, match=r"has more than 9,000 characters in its texts .* raise max_bytes"):
        list(read_source(str(tmp_path / "m.json"), ManifestLimits(max_bytes=9_000)))
    shots = [{"prompt": "x" * 450}, {"prompt": "y" * 450}]
    (tmp_path / "m.json").write_text(json.dumps({"defaults": {"shots": shots}, "jobs": [{}] * 99}))
    with pytest.raises(ManifestError, match=r"has more than 9,000 characters in its texts"):
        list(read_source(str(tmp_path / "m.json"), ManifestLimits(max_bytes=9_000)))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
def test_a_line_without_end_is_not_read_whole(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    path.write_text("prompt\n" + "x" * 2000)
    with pytest.raises(ManifestError, match=r"line 2 has more than 1,000 characters .*max_document_bytes"):
        list(read_source(str(path), ManifestLimits(max_document_bytes=1000)))


def test_a_build_prints_no_more_lines_than_a_check(tmp_path):
    (tmp_path / "m.csv").write_text("job_id,prompt\n" + "".join(f"bad {i},p\n" for i in range(9)))
    with pytest.raises(ManifestError, match="9 problems") as refused:
        build_manifest(str(tmp_path / "m.csv"), str(tmp_path / "m.parquet"), limits=ManifestLimits(max_problems=3))
    assert len(refused.value.problems) == 4 and refused.value.problems[-1].startswith("... and 6 more lines")


def test_seeds_make_no_more_rows_than_a_manifest_may_have(tmp_path):
    (tmp_path / "m.csv").write_text("job_id,prompt\na,p\nb,p\n")
    build = partial(build_manifest, str(tmp_path / "m.csv"), str(tmp_path / "m.parquet"))
    assert build(num_seeds=5, limits=ManifestLimits(max_rows=10)).num_rows == 10
    with pytest.raises(ManifestError, match="for more than 9 rows"):
        build(num_seeds=5, limits=ManifestLimits(max_rows=9))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_very_many_unknown_columns_are_some_lines(tmp_path, suffix):
    names = ["num_franum_fra" * 900, *(f"c{i}" for i in range(499))]
    path = tmp_path / f"m.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({name: ["x"] for name in ("job_id", "prompt", *names)}), path)
    elif suffix == "csv":
        path.write_text(",".join(("prompt", *names)) + "\nx\n")
    else:
        path.write_text(json.dumps({"prompt": "x", **dict.fromkeys(names, 1)}))
    try:
        lines = [line for row in read_source(str(path)) for line in row.lines] if suffix != "parquet" else []
        load_manifest(str(path)) if suffix == "parquet" else None
    except ManifestError as refused:
        lines = list(refused.problems)
    assert len(lines) == 21 and "... and 480 more columns that are not known" in lines[-1]
    assert max(map(len, lines)) < 1_000
