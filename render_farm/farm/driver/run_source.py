"""What a run is of: the rows of its manifest, or the one job of a prompt, and what is kept and shown of it."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import render_farm
from render_farm.errors import UsageError
from render_farm.farm.run.request import RunRequest
from render_farm.manifest.one_prompt import job_of_prompt, run_id_of_prompt
from render_farm.manifest.parts import open_manifest
from render_farm.manifest.reader import load_manifest
from render_farm.manifest.rows import Row
from render_farm.manifest.run_id import default_run_id
from render_farm.manifest.writer import write_manifest
from render_farm.storage.layout import check_id
from render_farm.uris import shown_uri


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """The rows of a run and its manifest as it is kept with the run."""

    run_id: str
    rows: list[Row]
    manifest: bytes


def read_source(request: RunRequest) -> RunSource:
    """Raises `UsageError` and its kin for a manifest that cannot be read."""
    if (request.manifest is None) == (request.prompt is None):
        raise UsageError("give a manifest or --prompt, one of them")
    if request.manifest is not None:
        rows = load_manifest(request.manifest, strict=request.strict, base=request.relative_to)
        run_id = request.run_id or default_run_id(request.manifest)
        with open_manifest(request.manifest) as handle:
            manifest = handle.read()
    else:
        job = job_of_prompt(str(request.prompt), request.overrides)
        rows = [Row(number=1, job_id=job.job_id, job=job)]
        run_id = request.run_id or run_id_of_prompt(job)
        with tempfile.TemporaryDirectory(prefix="render-farm-") as folder:
            path = Path(folder, "manifest.parquet")
            write_manifest(str(path), [job])
            manifest = path.read_bytes()
    if request.deadline is not None:
        rows = [_due(row, request.deadline) for row in rows]
    try:
        check_id(run_id, "--run-id")
    except ValueError as error:
        raise UsageError(str(error)) from error
    return RunSource(run_id=run_id, rows=rows, manifest=manifest)


def _due(row: Row, deadline: datetime) -> Row:
    if row.job is None or row.job.deadline is not None:
        return row
    return replace(row, job=replace(row.job, deadline=deadline))


def max_failed(request: RunRequest, num_rows: int) -> int | None:
    """The most jobs that may fail before the run stops; None: no limit."""
    text = request.max_failed or request.settings.max_failed
    if not text:
        return None
    number = text.removesuffix("%")
    if not re.fullmatch("[0-9]{1,9}", number) or (text.endswith("%") and int(number) > 100):
        raise UsageError(f"--max-failed: {text!r} is neither a number of jobs nor a share like 10%")
    return num_rows * int(number) // 100 if text.endswith("%") else int(number)


def metadata_of(source: RunSource, request: RunRequest) -> dict[str, str]:
    """What Ray's dashboard says of the job."""
    manifest = shown_uri(request.manifest) if request.manifest else "--prompt"
    return {"run_id": source.run_id, "manifest": manifest, "output": shown_uri(request.output)}


def run_document(source: RunSource, request: RunRequest, *, num_films: int, device: str, ray_dashboard: str) -> bytes:
    """`run.json`."""
    document = {
        "schema": "render_farm.run/1",
        "run_id": source.run_id,
        "manifest": shown_uri(request.manifest) if request.manifest else None,
        "output": request.output,
        "num_jobs": len(source.rows),
        "num_films": num_films,
        "device": device,
        "ray_dashboard": ray_dashboard or None,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "render_farm": render_farm.__version__,
    }
    return json.dumps(document, indent=1).encode()
