"""What Pillow does not say of a PNG, from its chunks (PNG's third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_SIGNATURE_BYTES = 8
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the header's kind of colour."""
_WHOLE = ((0, 0, 1, 1),)
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Adam7, the order of an interlaced PNG: first column and row of each pass, and its steps."""
_BLOCK_BYTES = 1 << 18
_UNSPECIFIED = 2


def cicp(data: bytes) -> tuple[int, int]:
    """Primaries and transfer function that a PNG's cICP chunk names, as in ITU-T H.273; 2 is "unspecified"."""
    for name, content in _chunks(data):
        if name == b"IDAT":
            break
        if name == b"cICP" and len(content) > 1:
            return content[0], content[1]
    return _UNSPECIFIED, _UNSPECIFIED


def has_all_pixels(data: bytes) -> bool:
    """Whether the image data are as long as the header needs. Pillow leaves black what is missing at their end."""
    missing, inflate = _num_pixel_bytes(data), zlib.decompressobj()
    for name, content in _chunks(data):
        if name != b"IDAT":
            continue
        for start in range(0, len(content), _BLOCK_BYTES):
            block: bytes | memoryview = content[start : start + _BLOCK_BYTES]
            while missing > 0 and (pixels := inflate.decompress(block, _BLOCK_BYTES)):
                missing -= len(pixels)
                block = inflate.unconsumed_tail
            if missing <= 0 or inflate.eof:
                return missing <= 0
    return missing <= 0


def _num_pixel_bytes(data: bytes) -> int:
    """Of the image data once they are inflated: each row has a byte for its filter."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, _SIGNATURE_BYTES + 8)
    num_bytes = 0
    for left, top, step_x, step_y in _PASSES if interlaced else _WHOLE:
        num_columns, num_rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if num_columns > 0:
            num_bytes += max(num_rows, 0) * (1 + (num_columns * depth * _CHANNELS[colour] + 7) // 8)
    return num_bytes


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of each chunk; the last one's may be cut short."""
    view, at = memoryview(data), _SIGNATURE_BYTES
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        yield bytes(view[at + 4 : at + 8]), view[at + 8 : end]
        at = end + 4  # a checksum, which Pillow compares
