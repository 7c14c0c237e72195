"""Requests to S3 that a segment and a film cost a worker.

    python -m tests.benchmarks.segment_requests

Films of 4 and of 12 segments of the built-in model are rendered and published by a worker without Ray, to a local S3
server (moto). What they differ by is 8 segments. The rest is what a film costs.
"""

from __future__ import annotations

import os
import platform
from collections import Counter

import torch

from render_farm import load_engine
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.job import RenderJob
from render_farm.planning import plan_film
from render_farm.storage.open import open_store
from tests.helpers import films
from tests.helpers.fixtures_s3 import start_s3_server, stop_s3_server
from tests.helpers.s3_requests import counted_requests

FEW, MANY = 4, 12
NEW_FRAMES, OVERLAP = 12, 5


def main() -> None:
    load = os.getloadavg()[0]
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}")
    server = start_s3_server()
    os.environ.update(server.env)
    try:
        few, many = (requests(f"s3://{server.new_bucket()}/out", number) for number in (FEW, MANY))
    finally:
        stop_s3_server(server)
    per_segment = {verb: (many[verb] - few[verb]) / (MANY - FEW) for verb in sorted(many)}
    of_film = {verb: few[verb] - FEW * per_segment[verb] for verb in sorted(many)}
    for what, counted in (("a segment", per_segment), ("a film besides", of_film)):
        parts = ", ".join(f"{verb} {number:g}" for verb, number in counted.items() if number)
        print(f"{what}: {sum(counted.values()):g} requests ({parts})")


def requests(output: str, num_segments: int) -> Counter[str]:
    """Of a worker that renders and publishes a film."""
    engine = load_engine("tiny", device="cpu", dtype="float32")
    num_frames = OVERLAP + NEW_FRAMES * num_segments
    size = {**films.SMALL, "base_num_frames": OVERLAP + NEW_FRAMES, "overlap_history": OVERLAP}
    plan = plan_film(RenderJob(job_id="a", prompt="a red circle", num_frames=num_frames, **size), engine.spec)
    assert plan.num_segments == num_segments
    task = FilmTask(run_id="r", output=output, model="tiny", plan=plan)
    stored = EmbeddingStore(open_store(output), "r", engine.spec.fingerprint)
    for text, embedding in engine.encode_prompts(stored.missing(plan.texts)).items():
        stored.save(text, embedding)
    worker = FilmWorker("w")
    with counted_requests() as counted:
        try:
            for segment in range(num_segments):
                worker.render_segment(task, segment)
            worker.finish_film(task)
        finally:
            worker.close()
    return counted


if __name__ == "__main__":
    main()
