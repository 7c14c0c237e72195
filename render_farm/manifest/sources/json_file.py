"""Jobs from JSON: one object a line (.jsonl, .ndjson), or a document with a list of them (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator

from render_farm.errors import ManifestError, Problem
from render_farm.manifest.limits import LIMITS, ManifestLimits
from render_farm.manifest.sources.documents import jobs_of_document, record_of
from render_farm.manifest.sources.records import Record, RepeatedKeyError, lines_of, open_text, parse_json
from render_farm.uris import shown_uri


def read_jsonl(uri: str, limits: ManifestLimits = LIMITS) -> Iterator[Record]:
    """Every job of the JSON-lines file at `uri`, by line; blank lines are skipped. Raises `ManifestError`."""
    with open_text(uri, limits) as text:
        for number, line in lines_of(uri, text, limits):
            if not line.strip():
                continue
            try:
                yield record_of(parse_json(line), number, "line")
            except (ValueError, RecursionError) as error:
                yield Record(number=number, values={}, problems=[Problem(field="", message=_why(error))])


def read_json(uri: str, limits: ManifestLimits = LIMITS) -> Iterator[Record]:
    """Every job of the JSON document at `uri`: a list, or {"defaults": {}, "jobs": []}. Raises `ManifestError`."""
    with open_text(uri, limits, "max_document_bytes") as text:
        content = text.read()
    try:
        document = parse_json(content)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{shown_uri(uri)}: {_why(error)}") from error
    defaults, jobs = jobs_of_document(uri, document)
    for number, job in enumerate(jobs, start=1):
        yield record_of(job, number, "job", defaults)


def _why(error: BaseException) -> str:
    if isinstance(error, RepeatedKeyError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        where = f"line {error.lineno}, character {error.colno}" if error.lineno > 1 else f"character {error.colno}"
        return f"is not JSON: {error.msg} at {where}"
    return "is not JSON: too deeply nested" if isinstance(error, RecursionError) else f"is not JSON: {error}"
