"""Kilobytes that could cost gigabytes or hours, through the whole preparation of a run: the driver's memory, and what
is written of bad rows. Each is measured in a process of its own."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.manifest.writer import write_manifest
from tests.helpers.films import job
from tests.helpers.media_files import png_header_of, slow_jpeg
from tests.helpers.program import run

MOST_BYTES = 600 << 20
_MEASURE = """
import sys
from render_farm.farm.driver.prepare import RunContext, prepare
from render_farm.farm.run.settings import Settings
from render_farm.manifest.reader import load_manifest
from render_farm.media.limits import InputLimits
from render_farm.planning import spec_of_preset
from render_farm.storage import open_store
from dataclasses import replace
manifest, output, timeout = sys.argv[1:]
context = RunContext(run_id="r", output=output, store=open_store(output), keep_latents=False, create_only=True,
    group={}, settings=Settings(inputs=InputLimits(image_timeout_s=float(timeout)), model_cache=output))
found = prepare(load_manifest(manifest), context, lambda model: spec_of_preset("tiny", fingerprint="f"))
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
said = next((str(result.message) for result in found.ended), "")
print(peak, len(found.entries), said[:400].replace(chr(10), " "))
"""


def sixteen_bit(folder: Path) -> list:
    side = 9_400
    (folder / "a.png").write_bytes(png_header_of(side, side, depth=16, data=bytes((1 + 2 * side) * side)))
    return [job(f"j{i}", image=str(folder / "a.png")) for i in range(4)]


def many_scans(folder: Path) -> list:
    return [job("a", image=str(slow_jpeg(folder / "a.jpg", num_scans=9_000)))]


def many_segments(folder: Path) -> list:
    return [job(f"j{i}", num_frames=100_000, base_num_frames=97, overlap_history=93) for i in range(40)]


def large_header(folder: Path) -> list:
    size = 100 << 20
    with open(folder / "a.safetensors", "wb") as file:
        file.write(struct.pack("<Q", size))
        file.truncate(size + 8)
    return [job("a", loras=[{"path": str(folder / "a.safetensors"), "weight": 1.0}])]


INPUTS = {
    "16-bit pictures of 88 Mpixel": (sixteen_bit, 60, 4, ""),
    "a JPEG of very many scans": (many_scans, 3, 0, "took longer than 3 s"),
    "films of 24,977 segments": (many_segments, 60, 0, "24,977 segments; the most is 2,000"),
    "a LoRA with a header of 100 MB": (large_header, 60, 0, "is not a safetensors file"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_the_drivers_memory_stays_small(tmp_path, name):
    make, timeout_s, num_films, said = INPUTS[name]
    manifest = str(tmp_path / "m.parquet")
    write_manifest(manifest, make(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, manifest, str(tmp_path / "out"), str(timeout_s)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    peak, found, *said_words = done.stdout.split()
    message = " ".join(said_words)
    print(f"{name}: {int(peak) >> 20} MiB; {message[:150]}")
    assert int(found) == num_films, message
    assert said in message
    assert int(peak) < MOST_BYTES


@pytest.mark.slow
def test_what_is_written_of_bad_rows_with_huge_values_is_bounded(tmp_path):
    """No row can be rendered, so no Ray starts."""
    num_rows = 40
    huge = pa.array(["x" * 1_000_000]).dictionary_encode().take(pa.array([0] * num_rows))
    columns = ("prompt", "model", "memory", "task", "cache", "owner", "image")
    table = pa.table({"job_id": [f"{i}" + "y" * 1_000_000 for i in range(num_rows)], **dict.fromkeys(columns, huge)})
    pq.write_table(table, tmp_path / "m.parquet", compression="zstd")
    done = run("render", tmp_path / "m.parquet", "-o", tmp_path / "out", "--device", "cpu")
    assert done.returncode == 10, done.stderr
    sizes = {
        "stderr": len(done.stderr),
        "stdout": len(done.stdout),
        "manifest": (tmp_path / "m.parquet").stat().st_size,
    }
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.name != "manifest.parquet":
            kind = path.name if path.name[0] not in "0123456789" else path.parent.name
            sizes[kind] = sizes.get(kind, 0) + path.stat().st_size
    print(json.dumps(sizes))
    assert sizes["stderr"] < 200 << 10
    assert sizes["report.html"] < 2 << 20
    assert sizes["state"] < 1 << 20
    assert sizes["results.parquet"] < 1 << 20
    assert (tmp_path / "m.parquet").stat().st_size < 1 << 20
