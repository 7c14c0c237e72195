"""Jobs as people write them: CSV, JSON lines, JSON, YAML, or a plain list of prompts. One reader a suffix."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from render_farm.errors import ManifestError
from render_farm.job import columns
from render_farm.manifest.limits import LIMITS, ManifestLimits, raising
from render_farm.manifest.naming import content_id
from render_farm.manifest.rows import Row, make_row
from render_farm.manifest.sources.csv_file import read_csv
from render_farm.manifest.sources.json_file import read_json, read_jsonl
from render_farm.manifest.sources.records import Record, lines_of, open_text
from render_farm.manifest.sources.yaml_file import read_yaml
from render_farm.uris import shown_uri


def read_source(uri: str, limits: ManifestLimits = LIMITS) -> Iterator[Row]:
    """Every job of the text file at `uri`, in order, each numbered by its line.

    A job without an id gets one from what it says: its prompt's first words and 8 hex of all its values
    (`a-red-circle-1f0c9a2b`), so that rows before and after it do not matter. Equal jobs are told apart by a number.
    Raises `ManifestError` for what makes the whole file unusable; what is wrong with one job comes in its row.
    """
    made: Counter[str] = Counter()
    num_entries = num_characters = 0
    for ordinal, record in enumerate(_reader_of(uri)(uri, limits), start=1):
        if ordinal > limits.max_rows:
            raise ManifestError(
                f"{shown_uri(uri)}: has more than {limits.max_rows:,} jobs", advice=f"split it, {raising('max_rows')}"
            )
        values = record.values
        # A few bytes of JSON or YAML can repeat long lists and texts: `defaults`, and aliases of what stands elsewhere.
        num_entries += sum(len(value) for value in values.values() if isinstance(value, list | dict))
        num_characters += _num_characters(values)
        for count, most, what, name in (
            (num_entries, limits.max_values, "entries in its lists", "max_rows"),
            (num_characters, limits.max_bytes, "characters in its texts", "max_bytes"),
        ):
            if count > most:
                raise ManifestError(
                    f"{shown_uri(uri)}: has more than {most:,} {what}", advice=f"split it, {raising(name)}"
                )
        if values and values.get("job_id") is None:
            job_id = _id_of(values)
            made[job_id] += 1
            values = {**values, "job_id": job_id if made[job_id] == 1 else f"{job_id}-{made[job_id]}"}
        yield _row(record, values)


def _num_characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_num_characters(item) for item in value.values())
    return sum(map(_num_characters, value)) if isinstance(value, list) else 0


def _id_of(values: dict[str, Any]) -> str:
    """From the values that the job will have, so that every format and spelling of a source gives the same one."""
    row = make_row(1, {**values, "job_id": "x"})
    given = {name: getattr(row.job, name) for name in columns()} if row.job else values
    content = {name: value for name, value in given.items() if name != "job_id" and value is not None}
    return content_id(given.get("prompt"), json.dumps(content, sort_keys=True, default=_plain))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _row(record: Record, values: dict[str, Any]) -> Row:
    row = make_row(record.number, values, place=record.place)
    if not record.problems:
        return row
    # What is missing because the record as a whole is wrong is not worth a second line.
    further = row.problems if values else ()
    return replace(row, job=None, problems=(*record.problems, *further))


def read_prompts(uri: str, limits: ManifestLimits = LIMITS) -> Iterator[Record]:
    """Every line of the text at `uri` as a prompt; blank lines and those that start with # are skipped."""
    with open_text(uri, limits) as text:
        for number, line in lines_of(uri, text, limits):
            prompt = line.strip()
            if prompt and not prompt.startswith("#"):
                yield Record(number=number, values={"prompt": prompt})


_Reader = Callable[[str, ManifestLimits], Iterator[Record]]
READERS: dict[str, _Reader] = {
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


def _reader_of(uri: str) -> _Reader:
    name = uri.rpartition("/")[2].lower()
    suffix = name[name.rfind(".") :] if "." in name else ""
    if suffix not in READERS:
        raise ManifestError(
            f"{shown_uri(uri)}: files that end in {suffix or 'nothing'} are not known",
            advice=f"known are {', '.join(READERS)}",
        )
    return READERS[suffix]
