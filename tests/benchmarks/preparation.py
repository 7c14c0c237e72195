"""How long until the first segment of a manifest starts whose rows have pictures on S3 (a local server, moto).

    python -m tests.benchmarks.preparation [--rows 10000] [--at-once]

`--at-once` prepares all rows before anything starts, as a run with --canary does.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from render_farm.farm.driver import render_run as driver
from render_farm.farm.run.request import RunRequest
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.observability.snapshot import RunSnapshot
from tests.helpers.films import SMALL
from tests.helpers.fixtures_s3 import start_s3_server, stop_s3_server

_NUM_PICTURES = 200
"""Rows share pictures. Each row fetches its own all the same."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--at-once", action="store_true")
    options = parser.parse_args()
    if options.at_once:
        driver._BATCH_S = math.inf
    server = start_s3_server()
    os.environ.update(server.env)
    try:
        with tempfile.TemporaryDirectory(prefix="preparation-") as folder:
            measure(Path(folder), server.new_bucket(), server.client(), options.rows)
    finally:
        stop_s3_server(server)


def measure(folder: Path, bucket: str, client, num_rows: int) -> None:
    """Render until the first segment has started, and stop."""
    generator = np.random.default_rng(0)
    for number in range(_NUM_PICTURES):
        content = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(content, "PNG")
        client.put_object(Bucket=bucket, Key=f"{number}.png", Body=content.getvalue())
    manifest = str(folder / "films.parquet")
    jobs = (
        RenderJob(
            job_id=f"job-{number:05d}",
            prompt="a red circle moving right",
            image=f"s3://{bucket}/{number % _NUM_PICTURES}.png",
            num_frames=21,
            **SMALL,
        )
        for number in range(num_rows)
    )
    write_manifest(manifest, jobs)
    started_s, load = time.monotonic(), os.getloadavg()[0]

    class Started(Exception):
        pass

    def on_snapshot(snapshot: RunSnapshot) -> None:
        if snapshot.segments_running:
            ready = sum(snapshot.jobs.values()) if "still being prepared" not in snapshot.note else None
            raise Started(snapshot.note if ready is None else "all rows were prepared")

    try:
        driver.render_run(
            RunRequest(manifest=manifest, output=str(folder / "out"), num_workers=1, device="cpu"),
            on_snapshot=on_snapshot,
        )
    except Started as found:
        spent_s = time.monotonic() - started_s
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(
            f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f}, {num_rows:,} rows: first segment after "
            f"{spent_s:.1f} s ({found}); peak memory of the driver {peak} MiB"
        )


if __name__ == "__main__":
    main()
