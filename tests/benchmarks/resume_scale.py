"""How long a big run takes to know what is left to do: with its durable state, and without (by looking film by film).

    python -m tests.benchmarks.resume_scale [--jobs 10000] [--s3]

A third of the jobs is done, a third has one of three segments, a third has not begun.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from render_farm.farm.driver.prepare import PreparedRun, RunContext, prepare
from render_farm.job import RenderJob
from render_farm.manifest.rows import Row
from render_farm.planning import plan_film, spec_of_preset
from render_farm.storage import open_store
from render_farm.storage.checkpoints import SegmentMeta, StoredFilm, begin_film, record_segment, save_segment
from render_farm.storage.done import dump_job
from render_farm.storage.layout import JobKeys, film_key
from render_farm.storage.run_state import JobRow, RunStateWriter, StoredRun, load_run_state
from render_farm.storage.store import Store
from tests.helpers.s3_requests import counted_requests

Result = TypeVar("Result")
FACTS = spec_of_preset("tiny", fingerprint="f")
LATENTS = np.zeros((1, 1, 1, 1, 1), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--s3", action="store_true", help="a local S3 server (moto) instead of a folder")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.jobs} jobs")
    folder = Path(tempfile.mkdtemp(prefix="resume-scale-"))
    try:
        if options.s3:
            from tests.helpers.fixtures_s3 import start_s3_server, stop_s3_server

            server = start_s3_server()
            os.environ.update(server.env)
            measure(open_store(f"s3://{server.new_bucket()}/out"), options.jobs)
            stop_s3_server(server)
        else:
            measure(open_store(folder), options.jobs)
    finally:
        shutil.rmtree(folder)


def measure(store: Store, num_jobs: int) -> None:
    """Build the output, and look at it in both ways."""
    rows = [
        Row(number=i, job_id=f"job-{i:06d}", job=RenderJob(job_id=f"job-{i:06d}", prompt="p", num_frames=53,
            base_num_frames=21, overlap_history=5, height=32, width=32)) for i in range(num_jobs)
    ]  # fmt: skip
    timed("building the output", lambda: build(store, rows))
    state = timed("loading the run's state", lambda: load_run_state(store, "night"))
    assert len(state.jobs) == 2 * (num_jobs // 3)
    with_state = timed("what is left, with the state", lambda: look(store, rows, state))
    without = timed("what is left, without it", lambda: look(store, rows, StoredRun()))
    for prepared in (with_state, without):
        assert len(prepared.ended) == num_jobs // 3, len(prepared.ended)
        assert sum(entry.segments_done for entry in prepared.entries) == num_jobs // 3


def build(store: Store, rows: list[Row]) -> None:
    known: dict[str, JobRow] = {}
    for row in rows[: 2 * (len(rows) // 3)]:
        assert row.job is not None
        plan = plan_film(row.job, FACTS)
        keys, key = JobKeys(job_id=row.job_id), plan.render_key
        if row.number < len(rows) // 3:
            job = {"job_id": row.job_id, "render_key": key, "attempt": "x", "sha256": "0" * 64, "segments": [],
                   "files": {name: {"num_bytes": 1} for name in ("video.mp4", "poster.jpg")}}  # fmt: skip
            store.write_bytes(keys.video, b"v")
            store.write_bytes(keys.poster, b"p")
            store.write_bytes(keys.job, dump_job(job))
            known[row.job_id] = JobRow(
                state="done", render_key=key, segments_done=3, segments=3, sha256="0" * 64, video_bytes=1
            )
        else:
            film = film_key(row.job_id, key)
            begin_film(store, film, plan.segment_keys)
            state = StoredFilm(film=film, keys=plan.segment_keys)
            record_segment(store, state, save_segment(store, state, LATENTS, SegmentMeta(attempt="x")))
            known[row.job_id] = JobRow(state="running", render_key=key, segments_done=1, segments=3)
    RunStateWriter(store, "night", load_run_state(store, "night")).write(known)


def look(store: Store, rows: list[Row], state: StoredRun) -> PreparedRun:
    context = RunContext(
        run_id="night",
        output=store.root_uri,
        store=store,
        keep_latents=False,
        create_only=True,
        group={},
        state=state,
    )
    return prepare(rows, context, lambda model: FACTS)


def timed(name: str, work: Callable[[], Result]) -> Result:
    started, cpu = time.monotonic(), time.process_time()
    with counted_requests() as counted:
        result = work()
    asked = "".join(f", {verb} {number:,}" for verb, number in sorted(counted.items()))
    print(f"{name}: {time.monotonic() - started:.1f} s ({time.process_time() - cpu:.1f} s of CPU){asked}", flush=True)
    return result


if __name__ == "__main__":
    main()
