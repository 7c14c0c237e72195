"""Kilobytes that stand for gigabytes: refused or read, in little memory. Each is measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import ManifestError
from render_farm.job import RenderJob
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
