"""What the farm costs beside the engine: 8 two-segment films on 2 workers of one thread each.

    python -m tests.benchmarks.farm_overhead [--films 8] [--workers 2]

Prints the wall time by phase and the share of the workers' time, once Ray has started, that was not spent in the
engine: a worker is in the engine while it denoises or decodes (both at once counts once).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from render_farm.farm.driver.render_run import render_run
from render_farm.farm.run.request import RunRequest
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.observability.snapshot import RunSnapshot


class Watch:
    """When each phase of the run was first seen."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.first: dict[str, float] = {}
        self.engine_s = 0.0

    def __call__(self, snapshot: RunSnapshot) -> None:
        self.engine_s = snapshot.engine_s
        self._mark("Ray answers", True)
        self._mark("workers are up", snapshot.num_workers > 0)
        self._mark("first segment begins", any(work.phase == "denoise" for work in snapshot.work))
        self._mark("last segment is stored", snapshot.num_segments == snapshot.segments_done > 0)
        self._mark("last film is published", snapshot.state == "done")

    def _mark(self, name: str, happened: bool) -> None:
        if happened:
            self.first.setdefault(name, time.monotonic() - self.started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(prefix="render-farm-bench-") as folder:
        manifest = str(Path(folder, "films.parquet"))
        jobs = [
            RenderJob(
                job_id=f"film-{i}",
                prompt=f"a {colour} circle moving right on a black background",
                num_frames=177,
                num_inference_steps=options.steps,
            )
            for i, colour in zip(range(options.films), ["red", "green", "blue", "yellow"] * options.films, strict=False)
        ]
        write_manifest(manifest, jobs)
        watch = Watch()
        outcome = render_run(
            RunRequest(manifest=manifest, output=f"{folder}/out", num_workers=options.workers, device="cpu"),
            on_snapshot=watch,
        )
        wall_s = time.monotonic() - watch.started
        documents = [json.loads(path.read_text()) for path in Path(folder, "out").glob("*/job.json")]
    denoise_s = sum(segment["seconds"] for document in documents for segment in document["segments"])
    decode_s = sum(document["decode_s"] for document in documents)
    ray_s, up_s = watch.first["Ray answers"], watch.first["workers are up"]
    rendering_s = watch.first["last film is published"] - up_s
    after_ray_s = watch.first["last film is published"] - ray_s
    print(
        f"machine            {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    )
    packages = ("torch", "diffusers", "ray")
    print(f"versions           python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in packages))
    print(f"command            {' '.join(sys.orig_argv[1:])}")
    print(f"outcome            {outcome.jobs}")
    for name, seconds in watch.first.items():
        print(f"{name:<24} {seconds:7.1f} s")
    print(f"wall time in all         {wall_s:7.1f} s")
    print(f"denoising, all segments  {denoise_s:7.1f} s (wall seconds of the workers, added up)")
    print(f"decoding and MP4         {decode_s:7.1f} s (beside it, on each worker's second thread)")
    print(f"workers in the engine    {watch.engine_s:7.1f} s (added up over {options.workers} workers)")
    for name, seconds in (("after Ray has started", after_ray_s), ("workers up to the end", rendering_s)):
        outside = 1 - watch.engine_s / options.workers / seconds
        print(f"{name:<24} {seconds:7.1f} s, of which outside the engine {outside:.1%}")


if __name__ == "__main__":
    main()
