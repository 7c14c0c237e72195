"""Drafts: the rows of a manifest of which a run renders the first segments only.

A draft is a job of its own, named `<job_id>.draft`. So its film, its state and its run are never those of the whole
film, and both can be in one output. It has the seed of its film, whose segments it shares.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from render_farm.check_mode import CheckAction, parse_checks
from render_farm.errors import InvalidJobError, Problem
from render_farm.job import JOB_ID, default_seed
from render_farm.manifest.cells import decoded
from render_farm.manifest.rows import Row
from render_farm.manifest.schema import is_text

SUFFIX = ".draft"


def draft_id(job_id: str) -> str:
    """The id of a job's draft."""
    return job_id + SUFFIX


def original_id(job_id: str) -> str:
    """The id of the job that a draft is of."""
    return job_id.removesuffix(SUFFIX)


def draft_run_id(run_id: str, num_segments: int) -> str:
    """The default id of the run that renders the first segments, where `run_id` is that of the whole films."""
    return f"{run_id}-first-{num_segments}"


def draft_rows(rows: Sequence[Row], manifest: Sequence[Row]) -> list[Row]:
    """The rows of jobs as those of their drafts. One whose id becomes too long, or is that of another row of their
    `manifest`, is a bad row."""
    jobs = {row.job_id: row for row in manifest}
    drafts = [as_draft(_renamed(row)) for row in rows]
    return [_refused(draft, jobs[draft.job_id]) if draft.job_id in jobs else draft for draft in drafts]


def _refused(draft: Row, other: Row) -> Row:
    """A draft with the folder of another job's film."""
    if draft.job is None:
        return draft
    problem = (
        f"{draft.job_id} is the job of {other.place} {other.number} too, and its film would take this draft's place. "
        "Another id for that job would work"
    )
    return replace(draft, job=None, problems=(Problem(field="job_id", message=problem),))


def _renamed(row: Row) -> Row:
    name = draft_id(row.job_id)
    if row.job is None:
        return replace(row, job_id=name) if JOB_ID.fullmatch(name) else row
    try:
        return replace(row, job_id=name, job=replace(row.job, job_id=name))
    except InvalidJobError as error:
        return replace(row, job=None, problems=error.problems)


def as_draft(row: Row) -> Row:
    """A row with the id of a draft: with the seed that its film has by default, and never with another one."""
    if row.job is None:
        return row
    seed = default_seed(original_id(row.job.job_id)) if row.job.seed is None else row.job.seed
    retries = row.job.checks and parse_checks(row.job.checks).action is CheckAction.RETRY
    checks = str(CheckAction.MARK) if retries else row.job.checks
    return replace(row, job=replace(row.job, seed=seed, checks=checks))


def draft_manifest(manifest: bytes) -> bytes:
    """A manifest with the ids of drafts, for the run that renders them. All else stays, bad rows too, and ids that
    cannot be those of drafts."""
    table = pq.ParquetFile(io.BytesIO(manifest), pre_buffer=False).read(use_threads=False)
    index = table.schema.get_field_index("job_id")
    ids = table["job_id"].combine_chunks()
    if not is_text(ids.type):
        return manifest
    texts = decoded(ids).cast(pa.large_binary()).to_pylist()  # a bad one is not even text
    drafts = pa.array([text and _draft_text(text) for text in texts], pa.binary())
    sink = io.BytesIO()
    options = pc.CastOptions(pa.string(), allow_invalid_utf8=True)
    pq.write_table(table.set_column(index, "job_id", pc.cast(drafts, options=options)), sink)
    return sink.getvalue()


def _draft_text(job_id: bytes) -> bytes:
    draft = job_id + SUFFIX.encode()
    return draft if JOB_ID.fullmatch(draft.decode(errors="replace")) else job_id
