"""The farm from Python: submit a run to a cluster, and look at one. `render_run` is `farm.driver.render_run`'s.

Nothing here needs more than the core packages, except a submission, which needs Ray (the extra `worker`).
"""

from __future__ import annotations

import inspect
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from render_farm.cli.rendering.flags import arguments_of
from render_farm.cli.rendering.render import render
from render_farm.cli.rendering.submit import as_on_the_cluster, checked_run_id, secret_variables
from render_farm.cli.runs import find_run
from render_farm.farm.driver import ray_job
from render_farm.farm.driver.ray_job import Submission, Submitted
from render_farm.farm.ray_cluster.environment import carried_environment
from render_farm.farm.run.request import RunRequest
from render_farm.manifest.one_prompt import job_of_prompt, run_id_of_prompt
from render_farm.manifest.writer import write_manifest
from render_farm.report.run_folder import RunFolderReader
from render_farm.report.status import RunStatus
from render_farm.report.status import run_status as status_of_folder
from render_farm.storage.open import refuse_for_farm


def submit(
    request: RunRequest,
    *,
    address: str | None = None,
    env: Iterable[str] = (),
    credentials: bool = True,
    runtime_env: Mapping[str, Any] | None = None,
    with_code: bool = False,
) -> Submitted:
    """Submit a run to a Ray cluster as a Ray Job, and return at once. A run that the cluster renders already is joined.

    The manifest and `request.settings` travel with the job. `request.address` is not used: the job renders on the
    cluster that it is submitted to.

    Args:
        request: the run. Its `output` must be one that every machine of the cluster can write.
        address: the cluster's job server (`http://HEAD:8265`) or its Ray address. None: `$RAY_API_SERVER_ADDRESS`, then
            `$RAY_ADDRESS`, then the Ray of this machine.
        env: more variables for the run's processes, each `NAME` (its value here) or `NAME=VALUE`.
        credentials: whether the store's credentials of this process travel with the job.
        runtime_env: Ray's runtime environment (`pip`, `image_uri`, ...).
        with_code: whether this render_farm travels with the job, for a cluster that has another version or none.

    Returns:
        The ids of the run and of its job, the job server's address, and whether the job was there already.

    Raises:
        UsageError: no job server answers, or it refuses the job.
        ManifestError: the manifest cannot be read, or has no rows.
        InvalidJobError: `prompt` and `overrides` are no valid job.
        ModuleNotFoundError: Ray is not installed.
    """
    refuse_for_farm(request.output)
    with tempfile.TemporaryDirectory(prefix="render-farm-") as folder:
        request = _with_manifest(request, Path(folder))
        run_id = checked_run_id(request)
        there, files = as_on_the_cluster(request, _flags_of(request), run_id)
        return ray_job.submit(
            Submission(
                run_id=run_id,
                output=there["output"],
                manifest=request.manifest,
                arguments=("render", *arguments_of(render, there)),
                files=files,
                environment={
                    **carried_environment(os.environ, extra=env, credentials=credentials),
                    **secret_variables(request.settings),
                },
                runtime_env=runtime_env or {},
                with_code=with_code,
            ),
            address,
        )


def run_status(run: str, *, output: str | None = None) -> RunStatus:
    """A run's state, progress, workers and failures, read from its folder. Needs no connection to its cluster.

    Args:
        run: a run's URI (`OUTPUT/_runs/RUN_ID`), or its id.
        output: the output that an id is looked up in. None: `$RENDER_FARM_OUTPUT`, or the settings file's.

    Returns:
        The status now. `state` is `waiting`, `running`, `done`, `failed` or `cancelled`, and `is_over` says whether it
        is final.

    Raises:
        NotFoundError: there is no such run.
        UsageError: `run` is no run's name, or the output is unknown.
        StorageError: the store does not answer.
    """
    place = find_run(run, output)
    folder = RunFolderReader(place.store, place.run_id).read()
    return status_of_folder(folder, now_s=time.time(), root_uri=place.store.root_uri)


def _with_manifest(request: RunRequest, folder: Path) -> RunRequest:
    """The run of a prompt as the run of a manifest, since not every column has a flag."""
    if request.manifest is not None or request.prompt is None:
        return request
    job = job_of_prompt(request.prompt, request.overrides)
    manifest = folder / "manifest.parquet"
    write_manifest(str(manifest), [job])
    return replace(
        request,
        manifest=str(manifest),
        prompt=None,
        overrides={},
        run_id=request.run_id or run_id_of_prompt(job),
        relative_to=request.relative_to or str(Path.cwd()),
    )


def _flags_of(request: RunRequest) -> dict[str, Any]:
    """The flags of `render` for `request`, with a settings file."""
    names = {parameter.name: parameter.default for parameter in inspect.signature(render).parameters.values()}
    same = {field.name: getattr(request, field.name) for field in fields(RunRequest) if field.name in names}
    return {
        **names,
        **same,
        "workers": request.num_workers,
        "timeout": request.timeout_s,
        "deadline": request.deadline and request.deadline.isoformat(),
        "config": "settings.toml",
    }
