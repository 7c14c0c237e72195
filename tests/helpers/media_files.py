"""Pictures and videos of the kinds that people bring, made here with Pillow and ffmpeg."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from pathlib import Path

from PIL import Image

from render_farm.media.ffmpeg import ffmpeg_path


def make_video(path: Path, *arguments: str, source: str = "testsrc2=s=64x32:r=24:d=1") -> Path:
    """A video of one of ffmpeg's sources; `arguments` are for the output."""
    command = [ffmpeg_path(), "-v", "error", "-f", "lavfi", "-i", source, *arguments, "-y", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path


def hdr_video(path: Path, *, transfer: str = "smpte2084") -> Path:
    """A grey of 203 nits, BT.2408's diffuse white, in 10 bits of BT.2020."""
    code = 0.58 if transfer == "smpte2084" else 0.75  # of SMPTE ST 2084 and ARIB STD-B67
    luma = round(64 + code * 876)
    tags = f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv"
    fill = f"format=yuv420p10le,geq=lum={luma}:cb=512:cr=512,{tags}"
    return make_video(
        path, "-vf", fill, "-c:v", "libx265", "-x265-params", "log-level=none", source="nullsrc=s=64x32:d=1"
    )


def png_header_of(
    width: int, height: int, *, depth: int = 8, colour: int = 0, interlaced: bool = False, data: bytes = b""
) -> bytes:
    """A PNG that claims a size. `data` stands for its pixels, uncompressed."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def adobe_rgb_profile() -> bytes:
    """An ICC profile (ICC.1:2010, matrix and gamma) with the primaries of Adobe RGB (1998), for D50."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    name = b"Adobe RGB (1998)\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(4 + 4 + 2 + 1 + 67)
    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.19921875 * 256)) + bytes(2)
    tags = {
        b"desc": described + bytes(-len(described) % 4),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    table, data, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", at + len(data), len(content))
        data += content
    size = at + len(data)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + xyz(0.9642, 1.0, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + data


def slow_jpeg(path: Path, *, side: int = 2000, num_scans: int = 400) -> Path:
    """A progressive JPEG of some 100 KB whose last scan comes very many times: seconds of decoding."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 30)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * num_scans + b"\xff\xd9")
    return path
