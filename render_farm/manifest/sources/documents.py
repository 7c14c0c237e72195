"""What JSON and YAML documents have in common: a list of jobs, or `{defaults: {...}, jobs: [...]}`."""

from __future__ import annotations

from typing import Any

from render_farm.errors import ManifestError, Problem
from render_farm.job import columns, shown
from render_farm.manifest.schema import unknown_columns
from render_farm.manifest.sources.records import Record, from_document
from render_farm.uris import shown_uri

SHAPE = "a list of jobs, or a mapping with `jobs` (such a list) and `defaults` (values for all of them)"


def jobs_of_document(uri: str, document: Any) -> tuple[dict[str, Any], list[Any]]:
    """The defaults and the jobs of a parsed document. Raises `ManifestError` for another shape."""
    defaults: Any = {}
    jobs = document
    if isinstance(document, dict):
        jobs = document.get("jobs")
        defaults = document.get("defaults") or {}
        others = [key for key in document if key not in ("jobs", "defaults")]
        if others:
            raise ManifestError(
                f"{shown_uri(uri)}: {shown(others[0])} is not known at the top", advice=f"it is {SHAPE}"
            )
    if not isinstance(jobs, list) or not isinstance(defaults, dict):
        raise ManifestError(f"{shown_uri(uri)}: has no list of jobs", advice=f"it is {SHAPE}")
    return defaults, jobs


def record_of(job: Any, number: int, place: str, defaults: dict[str, Any] | None = None) -> Record:
    """The record of one parsed job."""
    if not isinstance(job, dict):
        message = "is not an object with column names and values"
        return Record(number=number, values={}, problems=[Problem(field="", message=message)], place=place)
    given = {**(defaults or {}), **job}
    known = {name: from_document(name, value) for name, value in given.items() if name in columns()}
    unknown = unknown_columns([str(name) for name in given if name not in columns()])
    problems = [Problem(field="", message=line) for line in unknown]
    return Record(number=number, values=known, problems=problems, place=place)
