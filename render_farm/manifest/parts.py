"""A manifest that is a folder of Parquet files, as Spark, Hive, polars and DuckDB write them: one table for all.

Its parts are the Parquet files in the folder and in its `column=value` folders, in the order of their names. The value
of such a folder fills a column of the manifest that the file itself does not have; other names are passed over.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import ManifestError
from render_farm.job import BadCell, ValueKind, columns, normalise
from render_farm.manifest.files import address_of, clear_errors, file_system, is_local, open_binary
from render_farm.manifest.limits import LIMITS, ManifestLimits, raising
from render_farm.manifest.parquet_file import open_parquet
from render_farm.manifest.schema import check_schema, is_list, is_text, manifest_schema, unwrap
from render_farm.manifest.sources.records import from_cell
from render_farm.uris import shown_uri

_DEEPEST = 10
_SUFFIXES = (".parquet", ".parq", ".pq")
_TABLES = {"_delta_log": "a Delta Lake table", ".hoodie": "a Hudi table"}
"""What such a table has in its folder."""
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@contextmanager
def open_manifest(uri: str, limits: ManifestLimits = LIMITS) -> Iterator[IO[bytes]]:
    """The Parquet file at `uri`, or the parts of the folder there as one file. Raises `ManifestError`."""
    parts = part_files(uri, limits)
    if parts is None:
        with open_binary(uri) as handle:
            yield handle
        return
    with tempfile.TemporaryFile(prefix="render-farm-") as joined:
        _join(uri, parts, joined, limits)
        joined.seek(0)
        yield joined


def place_of(uri: str) -> str:
    """What relative inputs of the manifest at `uri` are resolved against: itself when it is a folder of parts."""
    fs, path = file_system(uri)
    with clear_errors(uri):
        return f"{uri.rstrip('/')}/" if _is_folder(uri, fs, path) else uri


def part_files(uri: str, limits: ManifestLimits = LIMITS) -> list[str] | None:
    """The part files of the folder at `uri`, as addresses in their order; None when `uri` is no folder. Raises
    `ManifestError` for a folder that holds none."""
    fs, path = file_system(uri)
    with clear_errors(uri):
        if not _is_folder(uri, fs, path):
            return None
        _refuse_tables(uri, {posixpath.basename(entry.rstrip("/")) for entry in fs.ls(path, detail=False)})
        found = sorted(_parts_in(fs, path, limits.max_parts, _DEEPEST))
    if not found:
        raise ManifestError(f"{shown_uri(uri)} is a folder without Parquet files", advice="give the manifest file")
    if len(found) > limits.max_parts:
        raise ManifestError(
            f"{shown_uri(uri)} is a folder of more than {limits.max_parts:,} Parquet files",
            advice=f"join them, for example with pyarrow.dataset, {raising('max_parts')}",
        )
    return found if is_local(fs) else [f"{address_of(uri).protocol}://{part}" for part in found]


def _refuse_tables(uri: str, names: set[str]) -> None:
    """ManifestError for a folder whose files are not all rows: of a table with a history of its own, or half-written.
    `names` are those of its entries."""
    for name, kind in _TABLES.items():
        if name in names:
            raise ManifestError(
                f"{shown_uri(uri)} is {kind}: some of its files may hold rows that were deleted or replaced",
                advice="write its rows as one Parquet file with the program that made it",
            )
    if "_temporary" in names:
        raise ManifestError(
            f"{shown_uri(uri)} is still being written, or its writer failed: it holds _temporary",
            advice="wait for its writer or run it again; when it has ended, remove _temporary",
        )


def _is_folder(uri: str, fs: Any, path: str) -> bool:
    if is_local(fs):
        return bool(fs.isdir(path))
    if address_of(uri).protocol in ("http", "https"):
        return False  # no listing there
    try:
        return bool(fs.info(path).get("type") == "directory")
    except FileNotFoundError:
        return False  # opening it says so


def _parts_in(fs: Any, folder: str, most: int, depth: int) -> Iterator[str]:
    num_found = 0
    for entry in fs.ls(folder, detail=True):
        path = entry["name"].rstrip("/")
        name = posixpath.basename(path)
        if name.startswith((".", "_")) and "=" not in name:
            continue  # _SUCCESS, _metadata, .part-0.crc
        if entry["type"] == "directory" and "=" in name and depth:
            found: Any = _parts_in(fs, path, most, depth - 1)
        else:
            is_part = entry["type"] != "directory" and (name.lower().endswith(_SUFFIXES) or _is_hive_file(name))
            found = [path] if is_part else []
        for part in found:
            yield part
            num_found += 1
            if num_found > most:
                return


def _is_hive_file(name: str) -> bool:
    """`000000_0`, as Hive names its files."""
    return name.replace("_", "").isdigit()


def _join(uri: str, parts: list[str], joined: IO[bytes], limits: ManifestLimits) -> None:
    root = file_system(uri)[1].rstrip("/")
    schemas: list[tuple[str, pa.Schema]] = []
    num_rows = num_bytes = 0
    for part in parts:
        with open_binary(part) as handle, open_parquet(part, handle, limits) as table:
            names, problems = check_schema(table.schema, required=())
            if problems:
                raise ManifestError(f"{shown_uri(part)}: its columns do not work", problems=tuple(problems))
            num_rows, num_bytes = table.check_size(names, num_rows, num_bytes)
            fields = [table.schema.field(name) for name in names]
        given = _values_of_path(root, part)
        fields += [pa.field(name, value.type) for name, value in given.items() if name not in names]
        schemas.append((part, pa.schema(fields)))
    schema = _joined_schema(uri, schemas)
    with clear_errors(uri), pq.ParquetWriter(joined, schema) as writer:
        for part, own in schemas:
            _append(part, own, _values_of_path(root, part), writer, limits)


def _append(
    part: str, own: pa.Schema, given: dict[str, pa.Array], writer: pq.ParquetWriter, limits: ManifestLimits
) -> None:
    with open_binary(part) as handle, open_parquet(part, handle, limits) as table:
        stored = [name for name in own.names if name in table.schema.names]
        for batch in table.batches(stored):
            arrays = []
            for field in writer.schema:
                if field.name in stored:
                    arrays.append(_cast(batch.column(field.name), field.type))
                else:
                    value = given.get(field.name, pa.nulls(1))
                    arrays.append(_cast(value.take(pa.array([0] * batch.num_rows, pa.int32())), field.type))
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=writer.schema))


def _cast(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    return array if array.type == wanted else array.cast(wanted)


def _values_of_path(root: str, part: str) -> dict[str, pa.Array]:
    """The columns that the folders between the manifest and `part` name (`owner=ads`), each with its one value. Raises
    `ManifestError` for one that cannot be read."""
    path = part.partition("://")[2] if "://" in part else part
    pairs = (folder.partition("=") for folder in path.removeprefix(root).split("/")[:-1] if "=" in folder)
    values: dict[str, pa.Array] = {}
    for name, _, text in pairs:
        kind = columns()[name].kind if name in columns() else None
        if kind is None:
            continue
        try:
            value = None if text == _HIVE_NULL else from_cell(unquote(text, errors="strict"), kind)
        except UnicodeDecodeError:
            value = BadCell("is not UTF-8 text")
        if isinstance(value, list) or kind in (ValueKind.TAGS, ValueKind.LORAS, ValueKind.SHOTS):
            value = BadCell("a folder's name cannot hold it")
        if kind in (ValueKind.INTEGER, ValueKind.NUMBER) or isinstance(value, BadCell):
            clean, problems = normalise({name: value})
            if problems:
                raise ManifestError(f"{shown_uri(part)}: {problems[0]}")
            value = clean[name]
        stored_as_text = kind in (ValueKind.TEXT, ValueKind.TIMESTAMP, ValueKind.TEXTS)
        values[name] = pa.array([value], pa.string() if stored_as_text else manifest_schema().field(name).type)
    return values


def _joined_schema(uri: str, schemas: list[tuple[str, pa.Schema]]) -> pa.Schema:
    """One type per column, to which every part's values can be brought without changing any."""
    fields: list[pa.Field] = []
    problems: list[str] = []
    for name in dict.fromkeys(name for _, schema in schemas for name in schema.names):
        types = {schema.field(name).type: part for part, schema in schemas if name in schema.names}
        joined = _joined_type(list(types))
        if joined is None:
            said = " and ".join(f"{kind} in {posixpath.basename(part)}" for kind, part in list(types.items())[:2])
            problems.append(f"column {name}: has type {said}; the parts of one manifest need one type")
        else:
            fields.append(pa.field(name, joined))
    if problems:
        raise ManifestError(f"{shown_uri(uri)}: the parts differ", problems=tuple(problems))
    return pa.schema(fields)


def _joined_type(types: list[pa.DataType]) -> pa.DataType | None:
    given = [kind for kind in types if not pa.types.is_null(kind)]
    if not given:
        return pa.null()
    if all(is_text(kind) for kind in given):
        return pa.dictionary(pa.int32(), pa.string())  # written and read without a copy per row
    if all(is_list(kind) and is_text(kind.value_type) for kind in given):
        return pa.list_(pa.dictionary(pa.int32(), pa.string()))
    plain = {unwrap(kind) for kind in given}
    if len(plain) == 1:
        return plain.pop()
    if all(pa.types.is_integer(kind) and kind != pa.uint64() for kind in plain):
        return pa.int64()
    return None
