"""What Pillow does not say of a PNG, from its chunks (PNG's third edition)."""

from __future__ import annotations

from collections.abc import Iterator

_SIGNATURE_BYTES = 8
_UNSPECIFIED = 2


def cicp(data: bytes) -> tuple[int, int]:
    """Primaries and transfer function that a PNG's cICP chunk names, as in ITU-T H.273; 2 is "unspecified"."""
    for name, content in _chunks(data):
        if name == b"IDAT":
            break
        if name == b"cICP" and len(content) > 1:
            return content[0], content[1]
    return _UNSPECIFIED, _UNSPECIFIED


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of each chunk; the last one's may be cut short."""
    view, at = memoryview(data), _SIGNATURE_BYTES
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        yield bytes(view[at + 4 : at + 8]), view[at + 8 : end]
        at = end + 4  # a checksum, which Pillow compares
