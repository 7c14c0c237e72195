"""What a Parquet file's footer says about its columns.

pyarrow gives this too, but ends the process when it is asked for a column of some damaged footers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import IO, Any

from render_farm.manifest.limits import raising

_BOOLEANS, _DOUBLE, _TEXT, _LIST, _SET, _MAP, _STRUCT, _UUID = (1, 2), 7, 8, 9, 10, 11, 12, 13
_DEEPEST = 20


@dataclass(frozen=True, kw_only=True)
class ColumnSize:
    """One column of one row group."""

    name: str
    """Of the whole column: `loras` for `loras.list.element.path`."""
    num_values: int
    """Entries of lists and maps count one each."""
    num_bytes: int
    """Once decompressed."""


def column_sizes(handle: IO[bytes], most_bytes: int) -> list[ColumnSize]:
    """Every column of every row group. ValueError for a footer that cannot be read, or has more than `most_bytes`."""
    handle.seek(-8, os.SEEK_END)
    length = int.from_bytes(handle.read(4), "little")
    if length > most_bytes:
        raise ValueError(f"its footer has {length:,} bytes; the most is {most_bytes:,} ({raising('max_header_bytes')})")
    handle.seek(-8 - length, os.SEEK_END)
    try:
        footer = _Thrift(handle.read(length)).struct(0)
        chunks = [chunk[3] for group in footer.get(4, []) for chunk in group.get(1, [])]
        return [
            ColumnSize(name=chunk[3][0].decode(errors="replace"), num_values=int(chunk[5]), num_bytes=int(chunk[6]))
            for chunk in chunks
        ]
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its footer is damaged ({error!r:.80})") from error


class _Thrift:
    """Thrift's compact protocol, as far as Parquet's footer uses it: a struct is a dictionary by field number."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

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
