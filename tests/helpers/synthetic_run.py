"""Writes the folder of a run that never was: jobs, events and results of a night, and real films for the first of them.

What a farm's run leaves is written through the farm's own code; only the rendering is made up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from render_farm.farm.run.results import Result, write_results
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.media.mp4 import Mp4Writer
from render_farm.media.poster import write_poster
from render_farm.media.preview import contact_sheet, encode_part, playlist
from render_farm.observability.events import EventKind, LogLine, dump_lines
from render_farm.storage.layout import (
    PREVIEW_INIT,
    PREVIEW_LIST,
    PREVIEW_SHEET,
    PREVIEW_VIDEO,
    FilmKeys,
    JobKeys,
    RunKeys,
    film_key,
    preview_part,
)
from render_farm.storage.open import open_store

START_S = datetime(2026, 11, 20, 22, 0, tzinfo=UTC).timestamp()
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script> & a fox"
_SUBJECTS = ("a red fox", "an old lighthouse", "two sailing boats", "a street market", "a glass greenhouse", "a whale")
_ACTIONS = ("in the first snow", "at dusk, slow dolly shot", "under heavy rain", "seen from above", "in morning fog")
_FAILURES = (
    ("OutOfMemoryError", "the segment does not fit the device's memory: tried to allocate 9.4 GiB"),
    ("InputError", "image s3://inputs/{job}.png: there is no such object"),
    ("WorkerDiedError", "worker worker-3.9 ended while it held this work: exit code 137"),
)


def write_run(
    output: Path,
    *,
    run_id: str = "night",
    num_jobs: int = 40,
    num_workers: int = 4,
    num_films: int = 8,
    started_s: float = START_S,
    seed: int = 0,
    still_running: bool = False,
) -> Path:
    """Write `OUTPUT/_runs/<run_id>/` and, for the first `num_films` done jobs, posters and videos. Returns its folder.

    A twentieth of the jobs fails, for three causes; each ninth film has a visible seam; the third job's prompt is HTML.
    """
    random_ = random.Random(seed)
    store, keys = open_store(output), RunKeys(run_id=run_id)
    jobs = [_job(number, random_) for number in range(num_jobs)]
    folder = output / keys.folder
    folder.mkdir(parents=True)
    write_manifest(str(folder / "manifest.parquet"), jobs)
    document = {
        "schema": "render_farm.run/1",
        "run_id": run_id,
        "manifest": "jobs/nightly.parquet",
        "output": str(output),
        "num_jobs": num_jobs,
        "device": "cuda",
        "started_at": datetime.fromtimestamp(started_s, UTC).isoformat(timespec="seconds"),
        "render_farm": "0.1",
    }
    store.write_bytes(keys.run, json.dumps(document).encode())
    results, lines = _night(jobs, num_workers, started_s, random_, output, still_running)
    write_results(store, run_id, results)
    for part in range(0, len(lines), 5000):
        store.write_bytes(
            keys.log(f"20261120T220000Z-{part // 5000 + 1:05d}.jsonl"), dump_lines(lines[part : part + 5000])
        )
    done = [result.job_id for result in results if result.state == "done"]
    for job_id in done[:num_films]:
        _film(output / JobKeys(job_id=job_id).folder, random_)
    return folder


def write_preview(output: Path, job_id: str, *, num_parts: int, run_id: str = "night") -> str:
    """Have a job that waits rendered so far that `num_parts` seconds of it can be watched; returns its work folder."""
    store, film, frames = open_store(output), film_key(job_id, "0123456789ab"), list(_frames(random.Random(5)))
    keys, named = FilmKeys(film=film), []
    for number in range(num_parts):
        part = encode_part(frames, fps=24, first_frame=24 * number, number=number)
        named.append((preview_part(number), 1.0))
        store.write_bytes(keys.preview(PREVIEW_INIT), part.init)
        store.write_bytes(keys.preview(preview_part(number)), part.media)
    joined = b"".join(store.read_bytes(keys.preview(name)) for name in (PREVIEW_INIT, *(name for name, _ in named)))
    store.write_bytes(keys.preview(PREVIEW_VIDEO), joined)
    store.write_bytes(keys.preview(PREVIEW_SHEET), contact_sheet(frames))
    store.write_bytes(
        keys.preview(PREVIEW_LIST), playlist(named, init=PREVIEW_INIT, longest_s=1.0, ended=False).encode()
    )
    line = LogLine(
        number=90_000 + num_parts,
        time_s=START_S + 3600 + num_parts,
        level="debug",
        job_id=job_id,
        message=f"{num_parts} of 5 segments can be watched",
        kind=EventKind.PREVIEW_READY,
        run_id=run_id,
        segment=num_parts - 1,
        values={"folder": film, "num_frames": 24 * num_parts, "fps": 24},
    )
    store.write_bytes(RunKeys(run_id=run_id).log(f"20261120T230000Z-{num_parts:05d}.jsonl"), dump_lines([line]))
    return film


def _job(number: int, random_: random.Random) -> RenderJob:
    prompt = HOSTILE if number == 2 else f"{random_.choice(_SUBJECTS)} {random_.choice(_ACTIONS)}, 35 mm film grain"
    deadline = datetime.fromtimestamp(START_S + 6 * 3600, UTC) if number % 10 == 0 else None
    return RenderJob(
        job_id=f"shot-{number:04d}",
        prompt=prompt,
        num_frames=257,
        width=960,
        height=544,
        fps=24,
        model="df-1.3b-540p",
        owner=random_.choice(("ada", "kim", "noor")),
        deadline=deadline,
    )


def _night(
    jobs: list[RenderJob],
    num_workers: int,
    started_s: float,
    random_: random.Random,
    output: Path,
    still_running: bool,
) -> tuple[list[Result], list[LogLine]]:
    lines: list[LogLine] = []
    free = {f"worker-{place}.{place + 1}": started_s + 30 + random_.random() * 20 for place in range(num_workers)}

    def log(time_s: float, kind: EventKind, message: str, **details) -> None:
        values = details.pop("values", {})
        level = "info" if kind is EventKind.RUN_STARTED else "debug"
        lines.append(
            LogLine(
                number=len(lines) + 1,
                time_s=round(time_s, 3),
                level=level,
                job_id=details.pop("job_id", ""),
                message=message,
                kind=kind,
                run_id="night",
                values=values,
                **details,
            )
        )

    log(started_s, EventKind.RUN_STARTED, f"{len(jobs)} films to render")
    for worker, time_s in free.items():
        log(time_s, EventKind.WORKER_UP, f"{worker} is up", worker=worker)
    results = []
    for number, job in enumerate(jobs):
        worker = min(free, key=free.__getitem__)
        began = free[worker] + (45 if number % 29 == 0 else 0.4)
        if still_running and number >= len(jobs) * 2 // 3:
            results.append(Result(job_id=job.job_id, state="waiting", segments=3))
            continue
        clock, what, gpu_s = began, {"job_id": job.job_id, "worker": worker, "attempt": 1}, 0.0
        failure = _FAILURES[number % 3] if number % 20 == 7 else None
        for segment in range(2 if failure else 3):
            log(clock, EventKind.SEGMENT_STARTED, f"began on {worker}", segment=segment, **what)
            seconds = 60 + random_.random() * 40
            clock += seconds
            if failure and segment == 1:
                log(
                    clock, EventKind.FILM_ENDED, "failed", values={"state": "failed", "error_class": failure[0]}, **what
                )
            else:
                gpu_s += seconds
                log(clock, EventKind.SEGMENT_DONE, "is stored", segment=segment, values={"seconds": seconds}, **what)
        free[worker] = clock
        result = Result(job_id=job.job_id, state="done", attempts=1, segments=3, gpu_s=round(gpu_s, 3))
        result.started_at = datetime.fromtimestamp(began, UTC)
        if failure:
            result.state, result.error_class, result.message = "failed", failure[0], failure[1].format(job=job.job_id)
        else:
            log(clock, EventKind.FINISH_STARTED, "finishing", **what)
            clock += 12
            values = {"num_frames": 257, "fps": 24, "width": 960, "height": 544}
            log(clock, EventKind.FILM_PUBLISHED, "published", values=values, **what)
            result.frames, result.sha256 = 257, f"{random_.getrandbits(256):064x}"
            result.uri = str(output / job.job_id / "video.mp4")
            result.seam_score = round(4 + random_.random() * 3 if number % 9 == 4 else 0.8 + random_.random() * 0.6, 3)
            result.findings = ("frozen@97-160",) if number % 9 == 4 else ()
        result.finished_at = datetime.fromtimestamp(clock, UTC)
        result.wall_s = round(clock - began, 3)
        results.append(result)
    lines.sort(key=lambda line: line.time_s)
    return results, lines


def _film(folder: Path, random_: random.Random) -> None:
    folder.mkdir(parents=True)
    with Mp4Writer(folder / "video.mp4", width=256, height=144, fps=24) as writer:
        for index, frame in enumerate(_frames(random_)):
            writer.append(frame)
            if index == 12:
                write_poster(frame, folder / "poster.jpg")


def _frames(random_: random.Random) -> Iterator[np.ndarray]:
    """A second of a disc that crosses a coloured picture."""
    height, width = 144, 256
    top, bottom = (np.array([random_.randrange(30, 220) for _ in range(3)]) for _ in range(2))
    share = np.linspace(0, 1, height)[:, None, None]
    back = np.broadcast_to((top * (1 - share) + bottom * share), (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    for index in range(24):
        frame = back.copy()
        frame[(x - 30 - index * 8) ** 2 + (y - 70) ** 2 < 700] = 255 - top
        yield frame
