"""A request, read: the rows of its manifest or the one job of its prompt, its store, and its limits."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import render_farm
from render_farm.errors import NotFoundError, UsageError
from render_farm.farm.driver.connection import resolve_address
from render_farm.farm.driver.prepare import PreparedRun
from render_farm.farm.driver.scale_limits import scale_limits
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.spec import FilmEntry, RunSpec
from render_farm.manifest.drafts import as_draft, draft_manifest, draft_rows, draft_run_id
from render_farm.manifest.files import folder_of
from render_farm.manifest.one_prompt import job_of_prompt, run_id_of_prompt
from render_farm.manifest.parts import open_manifest, place_of
from render_farm.manifest.reader import load_manifest
from render_farm.manifest.rows import Row, result_ids
from render_farm.manifest.run_id import default_run_id
from render_farm.manifest.selection import first_of_each, rows_of_parquet, select
from render_farm.manifest.writer import write_manifest
from render_farm.scheduling.scaling import ScaleLimits
from render_farm.storage.hashing import sha256_bytes
from render_farm.storage.layout import check_id
from render_farm.storage.open import open_store, refuse_for_farm
from render_farm.storage.probe import create_only_honoured
from render_farm.storage.store import Store
from render_farm.uris import shown_uri

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """Everything about a run that can be known without a cluster."""

    request: RunRequest
    """With `output` as its store names itself."""
    run_id: str
    rows: list[Row]
    manifest: bytes
    """As it is kept with the run."""
    store: Store
    create_only: bool
    """Whether the store honours create-only writes."""
    address: str
    scaling: ScaleLimits | None
    first: tuple[str, ...]
    """Jobs that are rendered before all others."""
    max_failed: int | None
    """The most jobs that may fail before the run stops. None: no limit."""

    @property
    def metadata(self) -> dict[str, str]:
        """What Ray's dashboard shows with the job."""
        output = shown_uri(self.request.output)
        return {"run_id": self.run_id, "manifest": self._manifest_uri or "--prompt", "output": output}

    def spec(
        self, prepared: PreparedRun, *, upcoming: Sequence[FilmEntry] = (), device: str, dashboard: str
    ) -> RunSpec:
        """The run as the coordinator takes it on. `upcoming` films are told later. `dashboard` is empty where there is
        none."""
        names = result_ids(self.rows)
        texts: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for entry in upcoming:
            texts[entry.task.model].update(dict.fromkeys(entry.texts))
        fingerprints = {entry.task.model: entry.task.plan.spec.fingerprint for entry in upcoming}
        return RunSpec(
            run_id=self.run_id,
            output=self.request.output,
            max_failed=self.max_failed,
            max_workers=self.request.num_workers,
            first=self.first,
            failed_before=prepared.num_bad,
            order=tuple(names.get(row.number, row.job_id) for row in self.rows),
            texts={model: (fingerprints[model], tuple(found)) for model, found in texts.items()},
            ended=prepared.ended,
            render_keys=prepared.render_keys,
            manifest=self.manifest,
            manifest_sha256=sha256_bytes(self.manifest),
            keep_latents=self.request.keep_latents,
            limits=self.request.settings.inputs,
            default_model=self.request.settings.model,
            observer=self.request.observer,
            document=self._document(
                num_films=len(prepared.entries) + len(upcoming), device=device, dashboard=dashboard
            ),
        )

    def _document(self, *, num_films: int, device: str, dashboard: str) -> bytes:
        """`run.json`."""
        document = {
            "schema": "render_farm.run/1",
            "run_id": self.run_id,
            "manifest": self._manifest_uri,
            "output": self.request.output,
            "num_jobs": len(self.rows),
            "num_films": num_films,
            "device": device,
            "ray_dashboard": dashboard or None,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "render_farm": render_farm.__version__,
            "continue_with": self._continue_with,
        }
        return json.dumps(document, indent=1).encode()

    @property
    def _continue_with(self) -> dict[str, Any]:
        """What `render-farm continue` needs besides the stored manifest."""
        request = self.request
        base = request.relative_to or (folder_of(place_of(request.manifest)) if request.manifest else None)
        return {
            "relative_to": shown_uri(base) if base else None,
            "keep_latents": request.keep_latents,
            "replace": request.replace,
            "first_segments": request.first_segments,
            "deadline": request.deadline.isoformat() if request.deadline else None,
        }

    @property
    def _manifest_uri(self) -> str | None:
        name = self.request.manifest_name or self.request.manifest
        return shown_uri(name) if name else None


def read_source(request: RunRequest) -> RunSource:
    """Raises `UsageError` and its kin for a manifest that cannot be read, an output that cannot be written to, and
    limits that cannot be kept."""
    refuse_for_farm(request.output)
    run_id, rows, manifest = _read_manifest(request)
    if request.deadline is not None:
        rows = [_due(row, request.deadline) for row in rows]
    if not rows and (request.where or request.limit):
        raise UsageError(f"--where {request.where!r}: holds for no row of the manifest")
    try:
        check_id(run_id, "--run-id")
    except ValueError as error:
        raise UsageError(str(error)) from error
    store = open_store(request.output)
    try:
        create_only = create_only_honoured(store)
    except NotFoundError as error:
        raise UsageError(f"output {store.root_uri}: cannot be written to ({error.message})") from error
    _warn_of_token(store)
    address = resolve_address(request.address)
    return RunSource(
        request=replace(request, output=store.root_uri),
        run_id=run_id,
        rows=rows,
        manifest=manifest,
        store=store,
        create_only=create_only,
        address=address,
        scaling=scale_limits(request, address),
        first=first_of_each(rows, request.canary) if request.canary else (),
        max_failed=_max_failed(request, len(rows)),
    )


def _warn_of_token(store: Store) -> None:
    """Keys of the environment are those of the start. A role or a profile gives new ones when the old ones expire."""
    if store.root_uri.startswith("s3://") and os.environ.get("AWS_SESSION_TOKEN"):
        log.warning(
            "AWS_SESSION_TOKEN is set: a run stops when it expires, and the same command with new credentials "
            "continues it. A role or a profile renews itself."
        )


def _read_manifest(request: RunRequest) -> tuple[str, list[Row], bytes]:
    if (request.manifest is None) == (request.prompt is None):
        raise UsageError("give either a manifest or --prompt")
    if request.manifest is not None:
        limits = request.settings.manifest
        rows = load_manifest(request.manifest, strict=request.strict, base=request.relative_to, limits=limits)
        with open_manifest(request.manifest, limits) as handle:
            manifest = handle.read()
        chosen = select(rows, where=request.where, limit=request.limit)
        if chosen and len(chosen) < len(rows):
            manifest = rows_of_parquet(manifest, [row.number for row in chosen])
        return _with_drafts(request, default_run_id(request.manifest, limits), chosen, rows, manifest)
    job = job_of_prompt(request.prompt or "", request.overrides)
    with tempfile.TemporaryDirectory(prefix="render-farm-") as folder:
        path = Path(folder, "manifest.parquet")
        write_manifest(str(path), [job])
        rows = [Row(number=1, job_id=job.job_id, job=job)]
        return _with_drafts(request, run_id_of_prompt(job), rows, rows, path.read_bytes())


def _with_drafts(
    request: RunRequest, run_id: str, rows: list[Row], every: list[Row], manifest: bytes
) -> tuple[str, list[Row], bytes]:
    """The run of drafts, where the request asks for the first segments only. `rows` are those of `every` row that are
    rendered, and `run_id` is what their run is called by default."""
    if not request.first_segments:
        return request.run_id or run_id, rows, manifest
    if request.is_draft_manifest:
        return request.run_id or run_id, [as_draft(row) for row in rows], manifest
    run_id = request.run_id or draft_run_id(run_id, request.first_segments)
    return run_id, draft_rows(rows, every), draft_manifest(manifest)


def _due(row: Row, deadline: datetime) -> Row:
    if row.job is None or row.job.deadline is not None:
        return row
    return replace(row, job=replace(row.job, deadline=deadline))


def _max_failed(request: RunRequest, num_rows: int) -> int | None:
    text = request.max_failed or request.settings.max_failed
    if not text:
        return None
    number = text.removesuffix("%")
    if not re.fullmatch("[0-9]{1,9}", number) or (text.endswith("%") and int(number) > 100):
        raise UsageError(f"--max-failed: {text!r} is neither a number of jobs nor a share like 10%")
    return num_rows * int(number) // 100 if text.endswith("%") else int(number)
