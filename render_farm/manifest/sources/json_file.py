"""Jobs from JSON: one object a line (.jsonl, .ndjson), or a document with a list of them (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from render_farm.errors import ManifestError, Problem
from render_farm.manifest.sources.documents import jobs_of_document, record_of
from render_farm.manifest.sources.records import Record, open_text
from render_farm.uris import shown_uri


class _RepeatedKeyError(ValueError):
    """A key that an object has twice; the parser would keep the last one silently."""


def read_jsonl(uri: str) -> Iterator[Record]:
    """Every job of the JSON-lines file at `uri`, by line; blank lines are skipped. Raises `ManifestError`."""
    with open_text(uri) as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                yield record_of(_parse(line), number, "line")
            except (ValueError, RecursionError) as error:
                yield Record(number=number, values={}, problems=[Problem(field="", message=_why(error))])


def read_json(uri: str) -> Iterator[Record]:
    """Every job of the JSON document at `uri`: a list, or {"defaults": {}, "jobs": []}. Raises `ManifestError`."""
    with open_text(uri) as text:
        content = text.read()
    try:
        document = _parse(content)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{shown_uri(uri)}: {_why(error)}") from error
    defaults, jobs = jobs_of_document(uri, document)
    for number, job in enumerate(jobs, start=1):
        yield record_of(job, number, "job", defaults)


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKeyError(f"{repeated!r} is there twice")
    return values


def _why(error: BaseException) -> str:
    if isinstance(error, _RepeatedKeyError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        where = f"line {error.lineno}, character {error.colno}" if error.lineno > 1 else f"character {error.colno}"
        return f"is not JSON: {error.msg} at {where}"
    return "is not JSON: too deeply nested" if isinstance(error, RecursionError) else f"is not JSON: {error}"
