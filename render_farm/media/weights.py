"""Files of weights that a job names (its LoRAs): safetensors only, fetched by the rules of every other input.

The layout is that of the safetensors format: 8 bytes with the length of a JSON header (little-endian), the header
(name to dtype, shape and place of each tensor), and the tensors' bytes without gaps.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from render_farm.errors import InputError
from render_farm.media.fetching.fetch import fetch, fetched_file
from render_farm.media.fetching.uris import refusal
from render_farm.media.kinds import kind_of
from render_farm.media.limits import InputLimits

_LIMITS = InputLimits()
_LENGTH_BYTES = 8
_BLOCK_BYTES = 1 << 20
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
_PICKLE_MARKS = (b"PK\x03\x04", *(bytes((0x80, protocol)) for protocol in range(2, 6)))
"""How torch's zip files and bare pickles begin."""
_SAFE_ADVICE = "load it where you trust it and save its tensors with safetensors.torch.save_file"


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a header says of one tensor; `dtype` as the format names it (`F32`, `BF16`, ...)."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WeightsHeader:
    """All that can be known of a file of weights without loading one."""

    sha256: str
    """Of the whole file, lower-case hex."""
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_weights_header(uri: str, limits: InputLimits = _LIMITS) -> WeightsHeader:
    """Read the file at `uri` once, keeping its header and hash only.

    Raises `InputError` for one that is not there, too large, not allowed, a pickle, damaged or cut off.
    """
    _refuse_pickle_by_name(uri)
    reader = _HeaderReader(uri, limits.max_lora_header_bytes)
    fetch(uri, reader, max_bytes=limits.max_lora_bytes, limits=limits)
    return reader.header()


@contextmanager
def fetched_weights(uri: str, limits: InputLimits = _LIMITS) -> Iterator[tuple[Path, WeightsHeader]]:
    """The file at `uri` as a temporary file that is gone after the block, and its header. Errors as above."""
    _refuse_pickle_by_name(uri)
    with fetched_file(uri, max_bytes=limits.max_lora_bytes, limits=limits) as path:
        reader = _HeaderReader(uri, limits.max_lora_header_bytes)
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                reader.write(block)
        yield path, reader.header()


def _refuse_pickle_by_name(uri: str) -> None:
    suffix = PurePosixPath(re.split(r"[?#]", uri, maxsplit=1)[0]).suffix.lower()
    if suffix in _PICKLES:
        raise refusal(uri, f"{suffix} files are pickles, which can run code when loaded", _SAFE_ADVICE)


class _HeaderReader:
    """Looks like a file to `fetch`; keeps the header and the hash of what is written."""

    def __init__(self, uri: str, max_header_bytes: int) -> None:
        self._uri = uri
        self._max_header_bytes = max_header_bytes
        self.truncate()

    def write(self, block: bytes, /) -> None:
        self._hash.update(block)
        self._num_bytes += len(block)
        if self._header_bytes is None:
            self._kept += block
            self._find_length()
        else:
            self._kept += block[: max(0, _LENGTH_BYTES + self._header_bytes - len(self._kept))]

    def seek(self, position: int, /) -> None:
        assert position == 0

    def truncate(self) -> None:
        self._hash = hashlib.sha256()
        self._kept = bytearray()
        self._header_bytes: int | None = None
        self._num_bytes = 0

    def _find_length(self) -> None:
        """Refuse what cannot be a header as soon as it begins: the rest of it is not fetched."""
        if len(self._kept) <= _LENGTH_BYTES:
            return
        length = int.from_bytes(self._kept[:_LENGTH_BYTES], "little")
        if self._kept[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and self._max_header_bytes < length < 1 << 40:
            raise refusal(
                self._uri,
                f"its safetensors header has {length:,} bytes, more than the {self._max_header_bytes:,} allowed",
                "a LoRA's has some hundred thousand; or raise max_lora_header_bytes in the settings",
            )
        if length > self._max_header_bytes or self._kept[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
            if self._kept.startswith(_PICKLE_MARKS):
                raise refusal(self._uri, "it is a pickle, which can run code when loaded", _SAFE_ADVICE)
            raise self._not_safetensors()
        self._header_bytes = length
        del self._kept[_LENGTH_BYTES + length :]

    def _not_safetensors(self) -> InputError:
        start = bytes(self._kept[:512])
        kind = "the index of a file in parts" if b'"weight_map"' in start else kind_of(start)
        return refusal(
            self._uri, f"it is not a safetensors file{f' but {kind}' if kind else ''}", "give a LoRA as .safetensors"
        )

    def header(self) -> WeightsHeader:
        """What was read. InputError when it is damaged or cut off."""
        if self._header_bytes is None:
            raise self._not_safetensors()
        end = _LENGTH_BYTES + self._header_bytes
        try:
            document = json.loads(self._kept[_LENGTH_BYTES:end], object_pairs_hook=_unique)
            metadata = document.pop("__metadata__", None) or {}
            tensors = {name: _tensor(self._uri, name, entry) for name, entry in document.items()}
            spans = sorted(tuple(entry["data_offsets"]) for entry in document.values())
            if not all(isinstance(value, str) for value in metadata.values()):
                raise TypeError("metadata that are not text")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            reason = "cut off" if self._num_bytes < end else "damaged"
            more = f" ({error})" if isinstance(error, _RepeatedName) else ""
            raise refusal(self._uri, f"its safetensors header is {reason}{more}", "copy it again") from None
        if len(tensors) > _MOST_TENSORS or any(len(name) > _LONGEST_NAME for name in tensors):
            raise refusal(
                self._uri,
                f"its header names {len(tensors):,} tensors, the longest of {max(map(len, tensors)):,} characters",
                f"a LoRA has some thousands. The most are {_MOST_TENSORS:,}, of {_LONGEST_NAME} characters",
            )
        num_bytes = spans[-1][1] if spans else 0
        if end + num_bytes != self._num_bytes:
            raise refusal(
                self._uri,
                f"it has {self._num_bytes:,} bytes, but its header says {end + num_bytes:,}",
                "it is cut off or damaged: copy it again",
            )
        if [0, *(last for _, last in spans)] != [*(first for first, _ in spans), num_bytes]:
            raise refusal(self._uri, "its tensors overlap or have gaps between them", "save it again")
        return WeightsHeader(sha256=self._hash.hexdigest(), tensors=tensors, metadata=metadata)


def _tensor(uri: str, name: str, entry: Any) -> TensorInfo:
    """ValueError, KeyError or TypeError for what the safetensors library refuses, too."""
    shape, (first, last), dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if len(shape) > _MOST_DIMENSIONS:
        raise refusal(
            uri,
            f"its tensor {name!r:.80} has {len(shape):,} dimensions",
            f"a LoRA's have 2, or 5 for a convolution. The most are {_MOST_DIMENSIONS}",
        )
    if not all(type(number) is int and 0 <= number < _MOST_BYTES for number in (*shape, first, last)):
        raise ValueError("no whole number")
    if (last - first) * 8 != math.prod(shape) * _BITS[dtype]:
        raise ValueError("another size than its shape")
    return TensorInfo(dtype=dtype, shape=tuple(shape))


class _RepeatedName(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _RepeatedName(f"{repeated!r:.80} appears twice")
    return found


_MOST_BYTES = 1 << 48
_MOST_TENSORS, _LONGEST_NAME = 50_000, 500
"""Each name is compared with those of a model's layers."""
_MOST_DIMENSIONS = 8
"""A file of some kilobytes could name a hundred thousand, whose product alone would take seconds."""
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64} | {
    name: bits
    for bits, names in {
        8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
        16: "I16 U16 F16 BF16",
        32: "I32 U32 F32",
        64: "I64 U64 F64",
    }.items()
    for name in names.split()
}
"""Of one number, by its dtype."""
