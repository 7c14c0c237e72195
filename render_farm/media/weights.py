"""Files of weights that a job names (its LoRAs): safetensors only, fetched by the rules of every other input.

The layout is that of the safetensors format: 8 bytes with the length of a JSON header (little-endian), the header
(name to dtype, shape and place of each tensor), and the tensors' bytes without gaps.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from render_farm.media.fetching.fetch import fetch, fetched_file
from render_farm.media.fetching.uris import refusal
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
            raise refusal(self._uri, "it is not a safetensors file", "give a LoRA as .safetensors")
        self._header_bytes = length
        del self._kept[_LENGTH_BYTES + length :]

    def header(self) -> WeightsHeader:
        """What was read. InputError when it is damaged or cut off."""
        if self._header_bytes is None:
            raise refusal(self._uri, "it is not a safetensors file", "give a LoRA as .safetensors")
        end = _LENGTH_BYTES + self._header_bytes
        try:
            document = json.loads(self._kept[_LENGTH_BYTES:end])
            metadata = document.pop("__metadata__", None) or {}
            tensors = {
                name: TensorInfo(dtype=str(entry["dtype"]), shape=tuple(map(int, entry["shape"])))
                for name, entry in document.items()
            }
            num_bytes = max((int(entry["data_offsets"][1]) for entry in document.values()), default=0)
            metadata = {str(key): str(value) for key, value in metadata.items()}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
            reason = "cut off" if self._num_bytes < end else "damaged"
            raise refusal(self._uri, f"its safetensors header is {reason}", "copy it again") from None
        if end + num_bytes != self._num_bytes:
            raise refusal(
                self._uri,
                f"it has {self._num_bytes:,} bytes, but its header says {end + num_bytes:,}",
                "it is cut off or damaged: copy it again",
            )
        return WeightsHeader(sha256=self._hash.hexdigest(), tensors=tensors, metadata=metadata)
