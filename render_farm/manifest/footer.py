"""What a Parquet file's footer and the headers of its pages say about its columns.

pyarrow gives the footer too, but ends the process when it is asked for a column of some damaged ones. A footer may also
say less than the pages hold, and it is the pages that are decoded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import IO, Any

from render_farm.manifest.limits import raising

_BOOLEANS, _DOUBLE, _TEXT, _LIST, _SET, _MAP, _STRUCT, _UUID = (1, 2), 7, 8, 9, 10, 11, 12, 13
_DEEPEST = 20
_FILE, _ENCRYPTION = 1, 8
"""Fields of a column chunk whose pages are elsewhere, or cannot be read."""
_PREFIXES = 7
_DELTA = {6, _PREFIXES}
"""Encodings: `DELTA_LENGTH_BYTE_ARRAY` and `DELTA_BYTE_ARRAY`."""
_USUAL_HEADER, _LONGEST_HEADER = 1 << 9, 1 << 20
"""Bytes of a page's header, which may hold its least and its largest value."""
_MOST_PAGES = 100_000


@dataclass(frozen=True, kw_only=True)
class ColumnSize:
    """One column of one row group."""

    name: str
    """Of the whole column: `loras` for `loras.list.element.path`."""
    num_values: int
    """Entries of lists and maps count one each."""
    num_bytes: int
    """Once decompressed."""
    path: str
    is_delta: bool
    """Its texts are stored as differences, which have no dictionary."""
    repeats_prefixes: bool
    """They may be longer than `num_bytes`: each can begin as the one before."""


def column_sizes(handle: IO[bytes], most_bytes: int) -> list[ColumnSize]:
    """Every column of every row group. ValueError for a footer that cannot be read, or has more than `most_bytes`, and
    for pages that cannot be followed."""
    try:
        pages_left = _MOST_PAGES
        columns = []
        for chunk in _chunks(handle, most_bytes):
            pages = _pages(handle, chunk, pages_left)
            pages_left -= len(pages)
            columns.append(_size(chunk[3], pages))
        return columns
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its footer is damaged ({error!r:.80})") from error


def _size(about: dict[int, Any], pages: list[tuple[int, int]]) -> ColumnSize:
    return ColumnSize(
        name=about[3][0].decode(errors="replace"),
        num_values=max(int(about[5]), sum(values for values, _ in pages)),
        num_bytes=max(int(about[6]), sum(size for _, size in pages)),
        path=".".join(part.decode(errors="replace") for part in about[3]),
        is_delta=bool(_DELTA & set(about[2])),
        repeats_prefixes=_PREFIXES in about[2],
    )


def _chunks(handle: IO[bytes], most_bytes: int) -> list[dict[int, Any]]:
    handle.seek(-8, os.SEEK_END)
    length = int.from_bytes(handle.read(4), "little")
    if length > most_bytes:
        raise ValueError(f"its footer has {length:,} bytes; the most is {most_bytes:,} ({raising('max_header_bytes')})")
    handle.seek(-8 - length, os.SEEK_END)
    footer = _Thrift(handle.read(length)).struct(0)
    return [chunk for group in footer.get(4, []) for chunk in group.get(1, [])]


def _pages(handle: IO[bytes], chunk: dict[int, Any], most: int) -> list[tuple[int, int]]:
    """Of each page of a column chunk: its values, and its bytes once decompressed."""
    if chunk.keys() & {_FILE, _ENCRYPTION}:
        return []
    about = chunk[3]
    pages: list[tuple[int, int]] = []
    start = min(offset for offset in (about.get(9), about.get(11)) if offset)
    end = start + int(about[7])
    while start < end:
        if len(pages) >= most:
            raise ValueError(f"it has more than {_MOST_PAGES:,} pages")
        handle.seek(start)
        data = handle.read(min(_USUAL_HEADER, end - start))
        try:
            header = (reader := _Thrift(data)).struct(0)
        except IndexError:
            data += handle.read(min(_LONGEST_HEADER, end - start - len(data)))
            header = (reader := _Thrift(data)).struct(0)
        values = header.get(5) or header.get(8) or {}
        pages.append((int(values.get(1, 0)), int(header[2])))
        start += reader.num_read + max(0, int(header[3]))
    return pages


class _Thrift:
    """Thrift's compact protocol, as far as Parquet's footer uses it: a struct is a dictionary by field number."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def num_read(self) -> int:
        """Bytes."""
        return self._at

    def struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            delta = kind >> 4
            number = number + delta if delta else self._signed()
            kind &= 15
            fields[number] = kind == 1 if kind in _BOOLEANS else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("its footer is nested too deeply")
        if kind in _BOOLEANS or kind == 3:
            return self._byte()
        if kind < _DOUBLE:
            return self._signed()
        if kind in (_DOUBLE, _UUID):
            return self._take(8 if kind == _DOUBLE else 16)
        if kind == _TEXT:
            return self._take(self._unsigned())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._value(head & 15, depth + 1) for _ in range(size)]
        if kind == _MAP:
            size = self._unsigned()
            kinds = self._byte() if size else 0
            return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(size)]
        if kind == _STRUCT:
            return self.struct(depth)
        raise ValueError(f"its footer holds a value of unknown kind {kind}")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        if len(taken) < size:
            raise IndexError("cut short")
        return taken

    def _unsigned(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
