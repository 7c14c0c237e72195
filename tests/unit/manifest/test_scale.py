"""A hundred thousand rows: seconds, and memory that does not grow with them."""

from __future__ import annotations

import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.manifest.duplicates import DuplicateFinder
from render_farm.manifest.reader import check_manifest, load_manifest

ROWS = 100_000
WITHIN_S = 20.0
_MEASURE = """
import resource, sys
from render_farm.manifest.reader import check_manifest
report = check_manifest(sys.argv[1])
assert report.ok, report.problems[:3]
print(report.num_rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write(path, num_rows: int, ids=None) -> str:
    """One row group, as pandas writes it."""
    table = pa.table(
        {
            "job_id": ids or [f"job-{i:07d}" for i in range(num_rows)],
            "prompt": [f"a red circle number {i} moving right on a black background" for i in range(num_rows)],
            "model": ["tiny"] * num_rows,
            "num_frames": [257.0] * num_rows,
            "seed": list(range(num_rows)),
            "guidance_scale": [6.0] * num_rows,
            "owner": pa.nulls(num_rows),
        }
    )
    pq.write_table(table, path, row_group_size=num_rows)
    return str(path)


def peak_bytes(path: str) -> int:
    answer = subprocess.run([sys.executable, "-c", _MEASURE, path], capture_output=True, text=True, check=True).stdout
    return int(answer.split()[1]) * 1024


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds_and_constant_memory(tmp_path):
    few, many = write(tmp_path / "few.parquet", 1000), write(tmp_path / "many.parquet", ROWS)
    started = time.monotonic()
    report = check_manifest(many)
    spent_s = time.monotonic() - started
    assert report.ok and report.num_rows == ROWS
    grown = peak_bytes(many) - peak_bytes(few)
    print(f"{ROWS} rows: {spent_s:.1f} s, {grown / 2**20:.0f} MiB more than 1,000 rows")
    assert spent_s < WITHIN_S
    assert grown < 48 << 20


@pytest.mark.slow
def test_duplicates_are_found_over_the_whole_length(tmp_path):
    ids = [f"job-{i}" for i in range(20_000)]
    ids[19_999] = "job-0"
    report = check_manifest(write(tmp_path / "m.parquet", 20_000, ids))
    assert report.fatal == ("row 20000 (job_id=job-0): job_id: is the same as in row 1",)


def test_loading_gives_every_row(tmp_path):
    rows = load_manifest(write(tmp_path / "m.parquet", 10_000))
    assert len(rows) == 10_000 and all(row.job for row in rows)


def test_equal_hashes_of_different_ids_are_not_duplicates(monkeypatch):
    monkeypatch.setattr("render_farm.manifest.duplicates._hash", lambda job_id: 7)
    ids = [(1, "a"), (2, "b"), (3, "a")]
    finder = DuplicateFinder()
    for number, job_id in ids:
        finder.add(number, job_id)
    assert list(finder.find(lambda: ids)) == [(3, 1, "a")]
