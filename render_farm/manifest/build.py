"""`manifest build`: a text file of jobs to a Parquet manifest, with seed variants when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from render_farm.errors import InvalidJobError, ManifestError, UsageError
from render_farm.job import NUM_SEEDS, RenderJob, default_seed
from render_farm.manifest.duplicates import DuplicateFinder
from render_farm.manifest.files import resolve_uri
from render_farm.manifest.limits import LIMITS, ManifestLimits, raising
from render_farm.manifest.reader import duplicate_line, problems_error
from render_farm.manifest.rows import Row
from render_farm.manifest.sources.read import read_source
from render_farm.manifest.writer import write_manifest
from render_farm.shots import Shot
from render_farm.uris import shown_uri

MOST_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built."""

    source: str
    manifest: str
    num_jobs: int
    """Jobs of the source."""
    num_rows: int
    """Rows of the manifest: the jobs times the seeds."""


def build_manifest(
    source: str, manifest: str, *, num_seeds: int | None = None, limits: ManifestLimits = LIMITS
) -> BuildReport:
    """Build the Parquet manifest `manifest` from the jobs in `source`; both are paths or fsspec URIs.

    With `num_seeds`, each job becomes that many rows `<job_id>-seed1`, `-seed2`, ... with consecutive seeds, the first
    being the job's own. Seeds of shots move as well.
    Raises `ManifestError` with every problem of every job, and then writes nothing.
    The source is read twice, so that it need not fit in memory.
    """
    if num_seeds is not None and not 1 <= num_seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds: {num_seeds} is not between 1 and {MOST_SEEDS:,}")
    num_jobs, prompt_lists = _check(source, num_seeds, limits)
    jobs = (
        _placed(job, source, manifest) for row in read_source(source, limits) for job in variants(_job(row), num_seeds)
    )
    num_rows = write_manifest(manifest, jobs, prompt_lists=prompt_lists)
    return BuildReport(source=source, manifest=manifest, num_jobs=num_jobs, num_rows=num_rows)


def variants(job: RenderJob, num_seeds: int | None) -> Iterator[RenderJob]:
    """`job` itself, or one job a seed. Raises `InvalidJobError` when an id becomes too long."""
    if num_seeds is None:
        yield job
        return
    first = default_seed(job.job_id) if job.seed is None else job.seed
    for k in range(num_seeds):
        shots = job.shots and tuple(shot if shot.seed is None else _moved(shot, k) for shot in job.shots)
        yield replace(job, job_id=f"{job.job_id}-seed{k + 1}", seed=(first + k) % NUM_SEEDS, shots=shots)


def _moved(shot: Shot, by: int) -> Shot:
    assert shot.seed is not None
    return replace(shot, seed=(shot.seed + by) % NUM_SEEDS)


def _check(source: str, num_seeds: int | None, limits: ManifestLimits) -> tuple[int, bool]:
    """Number of jobs, and whether any has a prompt list. Raises `ManifestError` with everything that is wrong."""
    finder = DuplicateFinder()
    problems: list[str] = []
    num_jobs, prompt_lists, place = 0, False, "line"
    for row in read_source(source, limits):
        num_jobs += 1
        if num_jobs * (num_seeds or 1) > limits.max_rows:
            raise ManifestError(
                f"{shown_uri(source)}: has jobs for more than {limits.max_rows:,} rows",
                advice=f"split it, give fewer --seeds, {raising('max_rows')}",
            )
        problems += row.lines
        place = row.place
        if row.job_id:
            finder.add(row.number, row.job_id)
        if row.job is not None:
            prompt_lists |= not isinstance(row.job.prompt, str)
            problems += _variant_problems(row, num_seeds)
    repeated = finder.find(lambda: _ids(source, limits))
    problems += [duplicate_line(number, earlier, job_id, place) for number, earlier, job_id in repeated]
    if problems:
        raise problems_error(source, problems, limits)
    if not num_jobs:
        raise ManifestError(f"{shown_uri(source)}: has no jobs")
    return num_jobs, prompt_lists


def _variant_problems(row: Row, num_seeds: int | None) -> list[str]:
    if num_seeds is None:
        return []
    try:
        list(variants(_job(row), num_seeds))
    except InvalidJobError as error:
        return [f"{row.label}: {problem} (with --seeds)" for problem in error.problems]
    return []


def _ids(source: str, limits: ManifestLimits) -> Iterator[tuple[int, str]]:
    return ((row.number, row.job_id) for row in read_source(source, limits) if row.job_id)


def _job(row: Row) -> RenderJob:
    if row.job is None:
        raise ManifestError(f"the source changed while it was read: {row.lines[0]}")
    return row.job


def _placed(job: RenderJob, source: str, manifest: str) -> RenderJob:
    """Inputs are written relative to the source; the manifest must find them from where it lies."""
    if not (job.image or job.last_image or job.video or job.loras or job.shots) or _folder(source) == _folder(manifest):
        return job
    return replace(
        job,
        image=job.image and resolve_uri(source, job.image),
        last_image=job.last_image and resolve_uri(source, job.last_image),
        video=job.video and resolve_uri(source, job.video),
        loras=job.loras and tuple(replace(lora, path=resolve_uri(source, lora.path)) for lora in job.loras),
        shots=job.shots
        and tuple(replace(shot, image=shot.image and resolve_uri(source, shot.image)) for shot in job.shots),
    )


def _folder(uri: str) -> str:
    return uri.rpartition("/")[0] if "://" in uri else os.path.dirname(os.path.abspath(uri))  # noqa: PTH100, PTH120
