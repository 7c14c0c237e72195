"""Jobs as people write them: CSV, JSON lines, JSON, YAML, or a plain list of prompts. One reader a suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from render_farm.errors import ManifestError
from render_farm.manifest.naming import slug
from render_farm.manifest.rows import Row, make_row
from render_farm.manifest.sources.csv_file import read_csv
from render_farm.manifest.sources.json_file import read_json, read_jsonl
from render_farm.manifest.sources.records import Record, open_text
from render_farm.manifest.sources.yaml_file import read_yaml
from render_farm.uris import shown_uri


def read_source(uri: str) -> Iterator[Row]:
    """Every job of the text file at `uri`, in order, each numbered by its line.

    A job without an id gets one from its prompt and its place in the list: `a-red-circle-0003`.
    Raises `ManifestError` for what makes the whole file unusable; what is wrong with one job comes in its row.
    """
    for ordinal, record in enumerate(_reader_of(uri)(uri), start=1):
        values = record.values
        if values and values.get("job_id") is None:
            values = {**values, "job_id": f"{slug(values.get('prompt'))}-{ordinal:04d}"}
        yield _row(record, values)


def _row(record: Record, values: dict[str, Any]) -> Row:
    row = make_row(record.number, values, place=record.place)
    if not record.problems:
        return row
    # What is missing because the record as a whole is wrong is not worth a second line.
    further = row.problems if values else ()
    return replace(row, job=None, problems=(*record.problems, *further))


def read_prompts(uri: str) -> Iterator[Record]:
    """Every line of the text at `uri` as a prompt; blank lines and those that start with # are skipped."""
    with open_text(uri) as text:
        for number, line in enumerate(text, start=1):
            prompt = line.strip()
            if prompt and not prompt.startswith("#"):
                yield Record(number=number, values={"prompt": prompt})


READERS: dict[str, Callable[[str], Iterator[Record]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".txt": read_prompts,
}
"""Suffix to reader. A reader yields records and raises `ManifestError`; a new format is one more line here."""


def _reader_of(uri: str) -> Callable[[str], Iterator[Record]]:
    name = uri.rpartition("/")[2].lower()
    suffix = name[name.rfind(".") :] if "." in name else ""
    if suffix not in READERS:
        raise ManifestError(
            f"{shown_uri(uri)}: files that end in {suffix or 'nothing'} are not known",
            advice=f"known are {', '.join(READERS)}",
        )
    return READERS[suffix]
