"""Writes jobs as a Parquet manifest with the contract's schema, atomically, at any fsspec URI."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.job import RenderJob, ValueKind, columns
from render_farm.manifest.files import clear_errors, file_system, is_local
from render_farm.manifest.schema import manifest_schema

ROWS_A_GROUP = 16_384
CONTENT_TYPE = "application/vnd.apache.parquet"


def write_manifest(uri: str, jobs: Iterable[RenderJob], *, prompt_lists: bool | None = None) -> int:
    """Write `jobs` to `uri` and return how many there were.

    Nothing is left under that name when it fails: a `ManifestError` says why. The same jobs give the same bytes.
    `prompt_lists` says whether any job has a prompt list, so that a stream need not be held to find out.
    """
    if prompt_lists is None:
        jobs = list(jobs)
        prompt_lists = any(not isinstance(job.prompt, str) for job in jobs)
    schema = manifest_schema(prompt_lists=prompt_lists)
    num_rows = 0
    remaining = iter(jobs)
    with _new_object(uri) as path:
        # The jobs come from the caller, whose own errors are not this file's: only the writing is translated.
        with clear_errors(uri, "write"):
            writer = pq.ParquetWriter(path, schema)
        try:
            while batch := list(islice(remaining, ROWS_A_GROUP)):
                with clear_errors(uri, "write"):
                    writer.write_table(_table(batch, schema))
                num_rows += len(batch)
        finally:
            with clear_errors(uri, "write"):
                writer.close()
    return num_rows


def _table(jobs: list[RenderJob], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        values = [getattr(job, field.name) for job in jobs]
        arrays.append(pa.array(_stored(values, columns()[field.name].kind, field.type), type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _stored(values: list[Any], kind: ValueKind, stored: pa.DataType) -> list[Any]:
    if kind is ValueKind.TEXTS and pa.types.is_list(stored):
        return [[value] if isinstance(value, str) else value for value in values]
    if kind is ValueKind.TAGS:
        return [value and list(value.items()) if value is not None else None for value in values]
    if kind is ValueKind.LORAS:
        return [
            None if value is None else [{"path": lora.path, "weight": lora.weight} for lora in value]
            for value in values
        ]
    if kind is ValueKind.SHOTS:
        return [value and [asdict(shot) for shot in value] for value in values]
    return values


@contextmanager
def _new_object(uri: str) -> Iterator[Path]:
    """A local path to write to; on leaving without an error it becomes the object at `uri`, at once and whole."""
    fs, target = file_system(uri)
    if is_local(fs):
        with _new_local_file(uri, Path(target)) as part:
            yield part
        return
    with TemporaryDirectory(prefix="render-farm-") as folder:
        part = Path(folder) / "manifest.parquet"
        yield part
        with clear_errors(uri, "write"):
            # Not fs.open: on an error inside it, closing would still publish what had been written so far.
            extra = {"ContentType": CONTENT_TYPE} if "s3" in fs.protocol else {}
            fs.put_file(str(part), target, **extra)


@contextmanager
def _new_local_file(uri: str, target: Path) -> Iterator[Path]:
    part = target.with_name(f".{target.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    with clear_errors(uri, "write"):
        if target.is_dir():
            raise IsADirectoryError(None, "a folder has that name")
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)
    try:
        yield part
        with clear_errors(uri, "write"), open(part, "rb") as handle:
            os.fsync(handle.fileno())
            part.replace(target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
