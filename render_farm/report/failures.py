"""Failures by cause: messages that differ only in names and numbers are one cause, with what to do about it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_ROW = re.compile(r"^(row|line) \d+( \(job_id=[^)]*\))?: ")
_NUMBERS = re.compile(r"[0-9a-f]{12,}|\d+(\.\d+)?")
_JOBS_NAMED = 20

ADVICE = {
    "InvalidJobError": "Correct these rows and render the manifest again: films that are done stay as they are.",
    "ModelError": "Check the model's name or address (`render-farm models list`), and that the workers can read it.",
    "InputError": "Check the input file that the message names, then retry.",
    "FindingsError": "Look at the film's poster. Another seed renders another film, `checks: mark` publishes this one.",
    "FilmRefusedError": "Your hook refused these films: change the rows or the hook, then retry.",
    "FilmExistsError": "Render the manifest again with `--replace`, or with another job_id or --output.",
    "ProvenanceError": "Check the certificate and key (`render-farm doctor`), then retry: finished segments are kept.",
    "HookError": "Your hook failed: look at the run's log for what it said, then retry. Finished segments are kept.",
    "OutOfMemoryError": "Ask for a smaller height, width or base_num_frames, or for larger GPUs.",
    "HostMemoryError": "The machine ran out of memory (not the GPU's): stop what else uses it, or use fewer workers.",
    "WorkerDiedError": "The process ended under its work: look for the kernel's out-of-memory killer on that host.",
    "DeviceError": "The GPU failed: check the host's driver log (Xid errors); retry once the host is healthy.",
    "StorageFullError": "Free space, then retry: finished segments are kept.",
    "StorageError": "The storage did not answer for long: check it (`render-farm doctor --output ...`), then retry.",
    "StorageUnavailableError": "Check the bucket's name and the credentials, then retry.",
    "HubUnavailableError": "The hub was busy for long: retry, or use a folder made by `render-farm models pull`.",
    "MediaError": "ffmpeg failed: check the temporary folder's space on the workers, then retry.",
}
_ELSE = "Look at the run's log for this job, then retry; if it repeats, it is the job's own."
_NOT_BY_RETRYING = {"InvalidJobError", "FindingsError", "FilmExistsError"}


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Jobs that failed for one cause."""

    error_class: str
    message: str
    """Of the first of them, without the row."""
    advice: str
    retry: str
    """The command that tries them again; empty where that cannot help."""
    job_ids: list[str] = field(default_factory=list)


def group_failures(results: Iterable[dict[str, Any]], *, run_id: str, output: str) -> list[FailureGroup]:
    """The failed rows of `results.parquet` by cause, the most frequent first."""
    jobs: dict[tuple[str, str], list[str]] = {}
    messages: dict[tuple[str, str], str] = {}
    for row in results:
        if row.get("state") != "failed":
            continue
        error_class = row.get("error_class") or "error"
        message = _ROW.sub("", row.get("message") or "failed").replace(f"{row['job_id']}: ", "", 1)
        own_name = re.compile(rf"(?<![\w.-]){re.escape(str(row['job_id']))}(?![\w.-])")
        cause = (error_class, _NUMBERS.sub("N", own_name.sub("JOB", message)))
        jobs.setdefault(cause, []).append(row["job_id"])
        messages.setdefault(cause, message)
    groups = [
        FailureGroup(
            error_class=cause[0],
            message=messages[cause],
            advice=ADVICE.get(cause[0], _ELSE),
            retry="" if cause[0] in _NOT_BY_RETRYING else _retry(run_id, output, job_ids),
            job_ids=job_ids,
        )
        for cause, job_ids in jobs.items()
    ]
    return sorted(groups, key=lambda group: -len(group.job_ids))


def _retry(run_id: str, output: str, job_ids: list[str]) -> str:
    names = job_ids if len(job_ids) <= _JOBS_NAMED else ["--failed"]
    return shlex.join(["render-farm", "retry", run_id, *names, "--output", output])
