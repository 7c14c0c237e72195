"""What is read of a PNG's chunks."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import pytest
from PIL import Image

from render_farm.media.png import has_all_pixels
from tests.helpers.media_files import png_header_of


def with_unfinished_stream(png: bytes) -> bytes:
    """`png` with a zlib stream that has no end. Pillow misses what is not there then, and only then."""
    at = png.index(b"IDAT")
    compressor = zlib.compressobj()
    stream = compressor.compress(zlib.decompress(png[at + 4 : -16])) + compressor.flush(zlib.Z_SYNC_FLUSH)
    chunk = b"IDAT" + stream
    return png[: at - 4] + struct.pack(">I", len(stream)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[-12:]


def loads(png: bytes) -> bool:
    try:
        Image.open(io.BytesIO(png)).load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour", "bits"), [(1, 0, 1), (4, 0, 4), (8, 2, 24), (16, 4, 32), (16, 6, 64)])
def test_the_image_data_are_as_long_as_pillow_needs(depth, colour, bits, interlaced):
    for width, height in itertools.product((1, 2, 5, 9), (1, 3, 4, 8)):

        def png(length, width=width, height=height):
            data = bytes(length)
            return png_header_of(width, height, depth=depth, colour=colour, interlaced=interlaced, data=data)

        pixels = -(-width * height * bits // 8)
        needed = next(length for length in range(pixels, 16 * pixels + 99) if has_all_pixels(png(length)))
        assert loads(with_unfinished_stream(png(needed)))
        assert not loads(with_unfinished_stream(png(needed - 1)))
        assert not has_all_pixels(png(needed - 1))


def test_image_data_in_many_chunks():
    png = png_header_of(40, 30, data=bytes(41 * 30))
    at = png.index(b"IDAT")
    chunks = [struct.pack(">I", 1) + b"IDAT" + bytes((byte,)) + bytes(4) for byte in png[at + 4 : -16]]
    assert has_all_pixels(png[: at - 4] + b"".join(chunks) + png[-12:])
    assert not has_all_pixels(png[: at - 4] + b"".join(chunks[: len(chunks) // 2]) + png[-12:])
