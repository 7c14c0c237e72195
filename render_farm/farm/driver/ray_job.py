"""A run as a Ray Job: its driver runs on the cluster, and whoever submits it may leave.

The job's working directory holds what the run needs of this machine (manifest, settings), its metadata says which run
it is, and what must not be seen (credentials, other variables) goes another way: see `handover.py`. A run that a job of
the cluster renders already is joined: no second job is made. The job's id is the run's id and a number, so that of two
who submit one run at the same moment only one makes a job.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import render_farm
from render_farm.errors import UsageError
from render_farm.farm.driver import handover
from render_farm.farm.driver.connection import use_token_at_hand
from render_farm.uris import shown_uri

PYTHON = ("python", "-m", "render_farm.cli")
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_TRIES = 5
_NOT_YET = ("No available agent", "ClientConnectorError")
"""The answer of a job server whose cluster has only just started."""
_PATIENCE_S = 180.0
"""How long to ask it again. Agents start with their node, on a busy machine minutes after the job server."""
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is to run, and what it needs."""

    run_id: str
    output: str
    manifest: str | None
    """As the person named it; metadata only."""
    arguments: tuple[str, ...]
    """Of `render-farm`, run in the working directory."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """Local files, or the content of others, by the name that they get in the working directory."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For the job's driver."""
    working_dir: str | None = None
    """A folder whose content is sent along."""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    """More of Ray's runtime environment: `pip`, `conda`, `image_uri`, ..."""
    with_code: bool = False
    """Take this machine's render_farm along, for a cluster that has another version or none."""


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """The job that renders the run."""

    run_id: str
    """The run's, for `run_status` and the verbs."""
    job_id: str
    """The Ray Job's."""
    dashboard: str
    """Of the cluster's job server."""
    joined: bool
    """It was there already."""


def submit(submission: Submission, address: str | None) -> Submitted:
    """Make a Ray Job of a run, or join the one there is. Returns at once.

    `address` is the job server's (`http://HOST:8265`), a Ray address or `auto`; None: `$RAY_API_SERVER_ADDRESS`, then
    `$RAY_ADDRESS`, then the cluster of this machine. UsageError when no job server answers there, or when it refuses.
    """
    client = _client(address)
    metadata = {
        "run_id": submission.run_id,
        "output": submission.output,
        "manifest": shown_uri(submission.manifest or ""),
        "render_farm": render_farm.__version__,
    }
    dashboard, refused = client.get_address(), ""
    handed_over: dict[str, str] | None = None
    tries, patient_until_s = _TRIES, time.monotonic() + _PATIENCE_S
    while tries > 0:
        with _translated_errors(dashboard):
            jobs = _jobs_of(client, submission.run_id)
        for job in jobs.values():
            if not job.status.is_terminal() and (job.metadata or {}).get("output") == submission.output:
                return Submitted(run_id=submission.run_id, job_id=job.submission_id, dashboard=dashboard, joined=True)
        number = max(jobs, default=0) + 1
        job_id = f"{submission.run_id}-{number}"
        with _working_dir(submission) as folder, _translated_errors(dashboard):
            try:
                if handed_over is None:
                    handed_over = handover.leave(client, _not_given(submission))
                client.submit_job(
                    entrypoint=shlex.join([*PYTHON, *submission.arguments]),
                    submission_id=job_id,
                    runtime_env=_runtime_env(submission, folder, handed_over),
                    metadata=metadata,
                )
            except RuntimeError as error:
                refused = str(error)
                if any(text in refused for text in _NOT_YET) and time.monotonic() < patient_until_s:
                    time.sleep(_LOOK_EVERY_S)
                elif number not in _jobs_of(client, submission.run_id):
                    raise
                else:  # someone else submitted it in this moment: look again
                    tries -= 1
            else:
                return Submitted(run_id=submission.run_id, job_id=job_id, dashboard=dashboard, joined=False)
    raise UsageError(f"the job server at {dashboard} does not take run {submission.run_id}: {refused[-400:]}")


def _client(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    use_token_at_hand()
    from ray.job_submission import JobSubmissionClient

    with _only_this(address), _translated_errors(address or "auto"):
        return JobSubmissionClient(None if address in (None, "auto") else address)


@contextlib.contextmanager
def _only_this(address: str | None) -> Iterator[None]:
    """Ray lets its variables overrule an address that was given; here it is the other way round."""
    hidden = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if address and name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def _translated_errors(address: str) -> Iterator[None]:
    """Whatever Ray says when it cannot submit, as one sentence."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        # Of a refused token Ray says more, which is advice of its own.
        reported = error.message.partition("\n")[0] if isinstance(error, AuthenticationError) else str(error)
        raise UsageError(
            f"cannot submit to the Ray cluster at {address!r}: {' '.join(reported.split())[-500:]}",
            advice="give the job server with --address http://HEAD:8265; where the cluster asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or put it into ~/.ray/auth_token",
        ) from error


def _jobs_of(client: Any, run_id: str) -> dict[int, Any]:
    """Every job that was made for runs of this id, by number."""
    found = {}
    for job in client.list_jobs():
        prefix, _, number = (job.submission_id or "").rpartition("-")
        if prefix == run_id and number.isdigit():
            found[int(number)] = job
    return found


@contextlib.contextmanager
def _working_dir(submission: Submission) -> Iterator[str | None]:
    """A folder with what the job takes along, for as long as it takes to send it."""
    if not submission.files:
        yield submission.working_dir
        return
    with tempfile.TemporaryDirectory(prefix="render-farm-submit-") as folder:
        if submission.working_dir:
            shutil.copytree(submission.working_dir, folder, dirs_exist_ok=True)
        for name, source in submission.files.items():
            if isinstance(source, bytes):
                Path(folder, name).write_bytes(source)
            else:
                shutil.copyfile(source, Path(folder, name))
        yield folder


def _not_given(submission: Submission) -> dict[str, str]:
    """The variables that the job's runtime environment does not set."""
    given = submission.runtime_env.get("env_vars", {})
    return {name: value for name, value in submission.environment.items() if name not in given}


def _runtime_env(submission: Submission, folder: str | None, handed_over: Mapping[str, str]) -> dict[str, Any]:
    env: dict[str, Any] = dict(submission.runtime_env)
    variables = {**handed_over, **env.get("env_vars", {})}
    if variables:
        env["env_vars"] = variables
    if folder:
        env["working_dir"] = folder
    if submission.with_code:
        package = str(Path(render_farm.__file__).parent)
        env["py_modules"] = [*env.get("py_modules", ()), package]
        env.setdefault("excludes", []).append("__pycache__")
    return env
