"""A file of every kind that people bring, and what is right for it. `python -m tests.helpers.wild_files FOLDER` writes
them all, to be looked at or rendered."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from render_farm.media.ffmpeg import ffmpeg_path
from tests.helpers.media_files import adobe_rgb_profile, hdr_video, make_video, png_header_of, slow_jpeg

GREEN = (60, 200, 90)
SIZE = (48, 32)


@dataclass(frozen=True, kw_only=True)
class Wild:
    """One file. Exactly one of `colour` (of its first pixel) and `refused` (words of the message) is given."""

    make: Callable[[Path], object]
    colour: tuple[int, int, int] | None = None
    within: int = 3
    """Levels."""
    size: tuple[int, int] = SIZE
    """Width and height as it is used."""
    said: str = ""
    """Words of its note; "" where there is none."""
    refused: str = ""
    suffix: str = ".png"


def _saved(mode: str = "RGB", kind: str = "PNG", colour: object = GREEN, **options: object) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        Image.new("RGB", SIZE, colour).convert(mode).save(path, kind, **options)  # type: ignore[arg-type]

    return make


def _animation(kind: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        first, *rest = (Image.new("RGB", SIZE, colour) for colour in (GREEN, (200, 0, 0), (0, 0, 200)))
        first.save(
            path,
            kind,
            save_all=True,
            append_images=rest,
            duration=100,
            **({"lossless": True} if kind == "WEBP" else {}),
        )

    return make


def _raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _bytes_of(make: Callable[[Path], object], change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """What `make` writes, changed."""

    def changed(path: Path) -> None:
        make(path)
        path.write_bytes(change(path.read_bytes()))

    return changed


def _noise(path: Path, kind: str = "JPEG") -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, kind)


def _with_chunk(name: bytes, content: bytes) -> Callable[[bytes], bytes]:
    """A PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return lambda data: data[:33] + chunk + data[33:]


def _cicp(primaries: int, transfer: int) -> Callable[[Path], object]:
    return _bytes_of(_saved(), _with_chunk(b"cICP", bytes((primaries, transfer, 0, 1))))


def _sixteen_bit_grey(path: Path) -> None:
    Image.fromarray(np.full(SIZE[::-1], 40_000, np.uint16)).save(path)


def _sixteen_bit_rgb(path: Path) -> None:
    row = b"\0" + struct.pack(">HHH", *(value * 257 for value in GREEN)) * SIZE[0]
    path.write_bytes(png_header_of(*SIZE, depth=16, colour=2, data=row * SIZE[1]))


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE, GREEN).save(path, "JPEG", exif=exif, quality=98)


def _camera_adobe_rgb(path: Path) -> None:
    """As cameras write Adobe RGB: no profile, but the index of the Exif standard."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    Image.new("RGB", SIZE, GREEN).save(path, "JPEG", exif=exif, quality=98)


def _half_transparent(path: Path) -> None:
    Image.new("RGBA", SIZE, (*GREEN, 128)).save(path)


def _text_bomb(path: Path) -> None:
    text = zlib.compress(bytes(100 << 20), 9)
    Image.new("RGB", SIZE, GREEN).save(path)
    path.write_bytes(_with_chunk(b"zTXt", b"a\0\0" + text)(path.read_bytes()))


def _dark() -> tuple[int, int, int]:
    return tuple(value * 128 // 255 for value in GREEN)  # type: ignore[return-value]


def _png(depth: int, colour: int, row: bytes, **chunks: bytes) -> Callable[[Path], object]:
    """A PNG of equal rows, `chunks` after its header."""

    def make(path: Path) -> None:
        data = png_header_of(*SIZE, depth=depth, colour=colour, data=(b"\0" + row) * SIZE[1])
        for name, content in reversed(chunks.items()):
            data = _with_chunk(name.encode(), content)(data)
        path.write_bytes(data)

    return make


def _interlaced_png(missing: int = 0) -> Callable[[Path], object]:
    """Of the last pass, `missing` rows are left out."""
    rows = [(6, 4), (6, 4), (12, 4), (12, 8), (24, 8), (24, 16), (48, 16 - missing)]
    data = b"".join((b"\0" + bytes(GREEN) * num_columns) * num_rows for num_columns, num_rows in rows)
    return _raw(png_header_of(*SIZE, colour=2, interlaced=True, data=data))


def _quarters(orientation: int) -> Callable[[Path], object]:
    """Green at the upper left, once turned as EXIF's `orientation` says, and blue elsewhere."""

    def make(path: Path) -> None:
        upright = Image.new("RGB", SIZE, (0, 0, 200))
        upright.paste(GREEN, (0, 0, SIZE[0] // 2, SIZE[1] // 2))
        turns = Image.Transpose
        back = {
            2: turns.FLIP_LEFT_RIGHT,
            3: turns.ROTATE_180,
            4: turns.FLIP_TOP_BOTTOM,
            5: turns.TRANSPOSE,
            6: turns.ROTATE_90,
            7: turns.TRANSVERSE,
            8: turns.ROTATE_270,
        }
        exif = Image.Exif()
        exif[0x0112] = orientation
        (upright.transpose(back[orientation]) if orientation in back else upright).save(path, "PNG", exif=exif)

    return make


def _sixteen(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


_JPEG = _saved(kind="JPEG", quality=98)
_PROFILE = adobe_rgb_profile()
_ADOBE = (0, 201, 83)
"""GREEN taken for Adobe RGB, in sRGB: its red is out of gamut."""

PICTURES: dict[str, Wild] = {
    "png": Wild(make=_saved(), colour=GREEN),
    "png interlaced by hand of another program (8-bit palette)": Wild(make=_saved("P"), colour=GREEN, within=30),
    "png grey": Wild(make=_saved("L"), colour=(146, 146, 146)),
    "png black and white": Wild(make=_saved("1", colour="white"), colour=(255, 255, 255)),
    "png 16-bit grey": Wild(make=_sixteen_bit_grey, colour=(156, 156, 156)),
    "png 16-bit rgb": Wild(make=_sixteen_bit_rgb, colour=GREEN),
    "png half transparent": Wild(make=_half_transparent, colour=_dark()),
    "png of 2 bits": Wild(make=_png(2, 0, b"\xaa" * 12), colour=(170, 170, 170)),
    "png of 2 bits, its grey transparent": Wild(make=_png(2, 0, b"\xaa" * 12, tRNS=_sixteen(2)), colour=(0, 0, 0)),
    "png of 4 bits, its grey transparent": Wild(make=_png(4, 0, b"\x99" * 24, tRNS=_sixteen(9)), colour=(0, 0, 0)),
    "png grey, its grey transparent": Wild(make=_png(8, 0, b"\x92" * 48, tRNS=_sixteen(0x92)), colour=(0, 0, 0)),
    "png grey, another grey transparent": Wild(
        make=_png(8, 0, b"\x92" * 48, tRNS=_sixteen(0x91)), colour=(0x92, 0x92, 0x92)
    ),
    "png rgb, its colour transparent": Wild(
        make=_png(8, 2, bytes(GREEN) * 48, tRNS=_sixteen(*GREEN)), colour=(0, 0, 0)
    ),
    "png 16-bit grey, its grey transparent": Wild(
        make=_png(16, 0, _sixteen(40_000) * 48, tRNS=_sixteen(40_000)), colour=(0, 0, 0)
    ),
    "png 16-bit rgb, its colour transparent": Wild(
        make=_png(16, 2, _sixteen(*(v * 257 for v in GREEN)) * 48, tRNS=_sixteen(*(v * 257 for v in GREEN))),
        colour=(0, 0, 0),
    ),
    "png 16-bit rgb, its colour of other low bytes transparent": Wild(
        make=_png(16, 2, _sixteen(0x3C12, 0xC834, 0x5A56) * 48, tRNS=_sixteen(0x3C12, 0xC834, 0x5A56)),
        colour=(0, 0, 0),
    ),
    "png 16-bit rgb, a colour of other low bytes transparent": Wild(
        make=_png(16, 2, _sixteen(0x3C12, 0xC834, 0x5A56) * 48, tRNS=_sixteen(0x3C3C, 0xC8C8, 0x5A5A)), colour=GREEN
    ),
    "png 16-bit rgb, its colour transparent, with Adobe RGB": Wild(
        make=_png(16, 2, _sixteen(1, 2, 3) * 48, tRNS=_sixteen(1, 2, 3), iCCP=b"a\0\0" + zlib.compress(_PROFILE)),
        colour=(0, 0, 0),
        said="Adobe RGB",
    ),
    "png 16-bit rgb half transparent": Wild(
        make=_png(16, 6, _sixteen(*(v * 257 for v in GREEN), 0x8000) * 48), colour=_dark()
    ),
    "png 16-bit grey half transparent": Wild(make=_png(16, 4, _sixteen(40_000, 0x8000) * 48), colour=(78, 78, 78)),
    "png palette half transparent": Wild(
        make=_png(8, 3, b"\1" * 48, PLTE=bytes((0, 0, 0, *GREEN)), tRNS=b"\xff\x80"), colour=_dark()
    ),
    "png with a colour beyond its palette": Wild(
        make=_png(8, 3, b"\5" * 48, PLTE=bytes((0, 0, 0, *GREEN))), colour=(0, 0, 0)
    ),
    "png palette without a palette": Wild(make=_png(8, 3, b"\1" * 48), refused="damaged PNG"),
    "png of 3 bits": Wild(make=_png(3, 0, b"\1" * 18), refused="damaged PNG"),
    "png grey with a profile for rgb": Wild(
        make=_saved("L", icc_profile=_PROFILE), colour=(146, 146, 146), said="taken for sRGB"
    ),
    "png half transparent with Adobe RGB": Wild(
        make=lambda path: Image.new("RGBA", SIZE, (*GREEN, 128)).save(path, icc_profile=_PROFILE),
        colour=(0, 101, 40),
        within=8,
        said="Adobe RGB",
    ),
    **{f"png turned as EXIF {number} says": Wild(make=_quarters(number), colour=GREEN) for number in range(10)},
    "png with Adobe RGB": Wild(make=_saved(icc_profile=_PROFILE), colour=_ADOBE, said="Adobe RGB", within=12),
    "png palette with Adobe RGB": Wild(
        make=_saved("P", icc_profile=_PROFILE), colour=_ADOBE, said="Adobe RGB", within=40
    ),
    "png with a broken profile": Wild(make=_saved(icc_profile=b"nonsense"), colour=GREEN, said="taken for sRGB"),
    "png 16-bit grey with a profile": Wild(
        make=lambda path: Image.fromarray(np.full(SIZE[::-1], 40_000, np.uint16)).save(path, icc_profile=_PROFILE),
        colour=(156, 156, 156),
        said="taken for sRGB",
    ),
    "png in PQ": Wild(make=_cicp(9, 16), refused="an HDR image (PQ)"),
    "png in HLG": Wild(make=_cicp(9, 18), refused="HDR image (HLG)"),
    "png with cICP of sRGB": Wild(make=_cicp(1, 13), colour=GREEN),
    "png with cICP of Display P3": Wild(make=_cicp(12, 13), colour=GREEN, said="Display P3 colours are taken for sRGB"),
    "png with cICP of BT.2020": Wild(make=_cicp(9, 1), colour=GREEN, said="BT.2020 colours are taken for sRGB"),
    "png with words about cICP": Wild(
        make=_bytes_of(_saved(), _with_chunk(b"tEXt", b"Comment\0about the cICP \x10")), colour=GREEN
    ),
    "png in PQ, with words about cICP": Wild(
        make=_bytes_of(_cicp(9, 16), _with_chunk(b"tEXt", b"Comment\0has cICP, see below")),
        refused="an HDR image (PQ)",
    ),
    "png of linear light": Wild(
        make=_bytes_of(_saved(), _with_chunk(b"gAMA", struct.pack(">I", 100_000))),
        colour=GREEN,
        said="its gamma of 1 is taken for that of sRGB",
    ),
    "png with the gamma of sRGB": Wild(
        make=_bytes_of(_saved(), _with_chunk(b"gAMA", struct.pack(">I", 45_455))), colour=GREEN
    ),
    "apng": Wild(make=_animation("PNG"), colour=GREEN, said="is an animation"),
    "png cut in half": Wild(make=_bytes_of(_saved(colour=(1, 2, 3)), _half), refused="damaged PNG"),
    "png whose pixels end early": Wild(
        make=_raw(png_header_of(*SIZE, colour=2, data=(b"\0" + bytes(GREEN) * SIZE[0]) * (SIZE[1] - 1))),
        refused="damaged PNG image (its image data end early: it is cut short)",
    ),
    "png interlaced": Wild(make=_interlaced_png(), colour=GREEN),
    "png interlaced whose pixels end early": Wild(make=_interlaced_png(missing=1), refused="data end early"),
    "png without its end": Wild(make=_bytes_of(_saved(), lambda data: data[:-12]), colour=GREEN),
    "png of 20000x20000": Wild(make=_raw(png_header_of(20_000, 20_000)), refused="max_image_pixels"),
    "png of no width": Wild(make=_raw(png_header_of(0, 10)), refused="damaged PNG"),
    "png with a text bomb": Wild(make=_text_bomb, refused="damaged PNG"),
    "png named jpg": Wild(make=_saved(), colour=GREEN, suffix=".jpg"),
    "jpeg": Wild(make=_JPEG, colour=GREEN, suffix=".jpg"),
    "jpeg progressive": Wild(make=_saved(kind="JPEG", progressive=True, quality=98), colour=GREEN, suffix=".jpg"),
    "jpeg grey": Wild(make=_saved("L", "JPEG"), colour=(146, 146, 146), suffix=".jpg"),
    "jpeg cmyk": Wild(make=_saved("CMYK", "JPEG", quality=98), colour=GREEN, suffix=".jpg", within=6),
    "jpeg turned by its camera": Wild(make=_turned, colour=GREEN, size=SIZE[::-1], suffix=".jpg"),
    "jpeg with Adobe RGB": Wild(
        make=_saved(kind="JPEG", quality=98, icc_profile=_PROFILE),
        colour=_ADOBE,
        said="Adobe RGB",
        suffix=".jpg",
        within=12,
    ),
    "jpeg with Adobe RGB by its camera": Wild(
        make=_camera_adobe_rgb, colour=GREEN, said="Adobe RGB colours are taken for sRGB", suffix=".jpg"
    ),
    "jpeg cut in half": Wild(
        make=_bytes_of(_noise, _half),
        refused="damaged JPEG",
        suffix=".jpg",
    ),
    "jpeg with words after it": Wild(
        make=_bytes_of(_JPEG, lambda data: data + b"hello" * 99), colour=GREEN, suffix=".jpg"
    ),
    "jpeg of very many scans": Wild(
        make=lambda path: slow_jpeg(path, num_scans=9_000), refused="took longer than", suffix=".jpg"
    ),
    "webp": Wild(make=_saved(kind="WEBP", lossless=True), colour=GREEN, suffix=".webp"),
    "webp animated": Wild(make=_animation("WEBP"), colour=GREEN, said="is an animation", suffix=".webp"),
    "webp cut in half": Wild(
        make=_bytes_of(lambda path: _noise(path, "WEBP"), _half),
        refused="damaged WEBP",
        suffix=".webp",
    ),
    "gif": Wild(make=_saved("P", "GIF"), refused="a GIF", suffix=".gif"),
    "gif animated": Wild(make=_animation("GIF"), refused="a GIF", suffix=".gif"),
    "bmp": Wild(make=_saved(kind="BMP"), refused="a BMP image", suffix=".bmp"),
    "tiff": Wild(make=_saved(kind="TIFF"), refused="a TIFF image", suffix=".tif"),
    "jpeg xl": Wild(make=_raw(b"\xff\x0a" + bytes(50)), refused="a JPEG XL image", suffix=".jxl"),
    "jpeg xl in a box": Wild(make=_raw(b"\0\0\0\x0cJXL \r\n\x87\n"), refused="a JPEG XL image", suffix=".jxl"),
    "photoshop": Wild(make=_raw(b"8BPS\0\1" + bytes(20)), refused="a Photoshop document", suffix=".psd"),
    "openexr": Wild(make=_raw(b"v/1\x01" + bytes(20)), refused="an OpenEXR image", suffix=".exr"),
    "jpeg 2000": Wild(make=_raw(b"\0\0\0\x0cjP  \r\n\x87\n"), refused="a JPEG 2000 image", suffix=".jp2"),
    "big tiff": Wild(make=_raw(b"II+\0" + bytes(20)), refused="a TIFF image", suffix=".tif"),
    "an icon": Wild(make=_raw(b"\0\0\1\0\1\0" + bytes(20)), refused="an icon", suffix=".ico"),
    "a raw picture of Canon": Wild(
        make=_raw(b"\0\0\0\x18ftypcrx " + bytes(20)), refused="a camera's raw picture", suffix=".cr3"
    ),
    "a raw picture of Fujifilm": Wild(
        make=_raw(b"FUJIFILMCCD-RAW " + bytes(20)), refused="a camera's raw picture", suffix=".raf"
    ),
    "radiance": Wild(make=_raw(b"#?RADIANCE\n"), refused="an HDR image (Radiance)", suffix=".hdr"),
    "ppm": Wild(make=_raw(b"P6\n1 1\n255\n\0\0\0"), refused="a PPM image", suffix=".ppm"),
    "a video": Wild(make=_raw(b"\0\0\0\x18ftypisom" + bytes(20)), refused="an MP4 video", suffix=".mp4"),
    "base64 of a png": Wild(make=_raw(b"iVBORw0KGgoAAAANSUhEUgAA"), refused="a PNG image in Base64"),
    "a 7-zip archive": Wild(make=_raw(b"7z\xbc\xaf\x27\x1c" + bytes(9)), refused="a 7-Zip archive"),
    "zeros": Wild(make=_raw(bytes(1000)), refused="full of zeros"),
    "an empty file": Wild(make=_raw(b""), refused="empty"),
    "a web page": Wild(make=_raw(b" \n<!DOCTYPE html><p>Sign in"), refused="a web page"),
    "svg": Wild(make=_raw(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), refused="SVG"),
    "a pointer of Git LFS": Wild(
        make=_raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        refused="Git LFS",
    ),
}


_TEST = "testsrc2=s=64x32:r=24:d=1"
_FLAT = "color=c=0x3cc85a:s=64x32:r=24:d=1"
"""GREEN."""


def _video(*arguments: str, source: str = _FLAT) -> Callable[[Path], object]:
    return lambda path: make_video(path, *arguments, source=source)


def _sound(path: Path) -> None:
    make_video(path, source="sine=d=1")


def _changed(first: Callable[[Path], object], *arguments: str, suffix: str = ".mp4") -> Callable[[Path], object]:
    """What `first` writes, copied by ffmpeg with `arguments` before the input."""

    def make(path: Path) -> None:
        source = path.with_name(f"source{suffix}")
        first(source)
        command = [ffmpeg_path(), "-v", "error", *arguments, "-i", str(source), "-c", "copy", "-y", str(path)]
        subprocess.run(command, check=True, timeout=60)

    return make


def _many_streams(path: Path) -> None:
    """As mkvmerge writes a film with five languages: statistics in the metadata of each."""
    names = ("BPS", "DURATION", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "_STATISTICS_WRITING_APP", "_STATISTICS_TAGS")
    metadata = [
        argument for stream in range(6) for name in names for argument in (f"-metadata:s:{stream}", f"{name}_=1")
    ]
    make_video(path, "-f", "lavfi", "-i", "sine=d=1", "-map", "0", *["-map", "1"] * 5, *metadata, source=_FLAT)


def _index_bomb(path: Path, num_samples: int = 80_000_000) -> None:
    """An MP4 of some 1,000 bytes whose index names very many samples of one byte."""
    make_video(path, "-c:v", "mpeg4", source=_FLAT)
    data = path.read_bytes()
    for name, content in (
        (b"stsz", struct.pack(">III", 0, 1, num_samples)),
        (b"stts", struct.pack(">IIII", 0, 1, num_samples, 1)),
        (b"stsc", struct.pack(">IIIII", 0, 1, 1, num_samples, 1)),
        (b"stco", struct.pack(">III", 0, 1, 48)),
    ):
        at = data.index(name) - 4
        end = at + int.from_bytes(data[at : at + 4], "big")
        data = _with_box(data, at, end, struct.pack(">I", 8 + len(content)) + name + content)
    path.write_bytes(data.replace(b"stss", b"free"))


def _with_box(data: bytes, at: int, end: int, box: bytes, outside: tuple[bytes, ...] = ()) -> bytes:
    """An MP4 with `box` in place of what stands from `at` to `end`; the boxes around it grow."""
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", *outside):
        start = data.index(name) - 4
        size = int.from_bytes(data[start : start + 4], "big") + len(box) - (end - at)
        data = data[:start] + struct.pack(">I", size) + data[start + 4 :]
    return data[:at] + box + data[end:]


def _dolby_vision(path: Path, *, profile: int = 5, compatibility: int = 0) -> None:
    """H.265 with the configuration of Dolby Vision (its specification for the ISO base media file format)."""
    make_video(path, "-pix_fmt", "yuv420p10le", *_X265, "-tag:v", "hvc1", source=_FLAT)
    data = path.read_bytes()
    at = data.index(b"hvcC") - 4
    at += int.from_bytes(data[at : at + 4], "big")
    record = bytes((1, 0, profile << 1, 1 << 3 | 0b101, compatibility << 4)) + bytes(19)
    box = struct.pack(">I", 8 + len(record)) + b"dvcC" + record
    path.write_bytes(_with_box(data, at, at, box, (b"stsd", b"hvc1")))


_X265 = ("-c:v", "libx265", "-x265-params", "log-level=none")
_CLEAR = "color=c=0x3cc85a@0.0:s=64x32:r=24:d=1,format=rgba"
_FIELDS = "interlace"


def _tagged(matrix: str, primaries: str, transfer: str, pixels: str = "yuv420p10le") -> Callable[[Path], object]:
    tags = f"format={pixels},setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range=tv"
    return _video("-vf", tags, *_X265)


def _interlaced(codec: str, *arguments: str) -> Wild:
    make = _video(
        "-c:v", codec, "-vf", _FIELDS, "-flags", "+ildct+ilme", *arguments, source=_FLAT.replace("r=24", "r=48")
    )
    return Wild(
        make=make, colour=GREEN, within=10, said="interlaced", suffix=".mkv" if codec != "prores_ks" else ".mov"
    )


_P3 = "setparams=color_primaries=smpte432:color_trc=bt709:colorspace=bt709:range=tv,format=yuv420p"
VIDEOS: dict[str, Wild] = {
    "h.264": Wild(make=_video(), colour=GREEN, within=8, suffix=".mp4"),
    "h.264, 10 bits": Wild(make=_video("-pix_fmt", "yuv420p10le"), colour=GREEN, within=8, suffix=".mp4"),
    "h.264 with all levels": Wild(
        make=_video("-vf", "scale=out_range=pc", "-pix_fmt", "yuv420p", "-color_range", "pc"),
        colour=GREEN,
        within=8,
        suffix=".mp4",
    ),
    "h.265": Wild(
        make=_video("-c:v", "libx265", "-x265-params", "log-level=none"), colour=GREEN, within=8, suffix=".mp4"
    ),
    "vp9": Wild(make=_video("-c:v", "libvpx-vp9"), colour=GREEN, within=8, suffix=".webm"),
    "mpeg-2 in a transport stream": Wild(make=_video("-c:v", "mpeg2video"), colour=GREEN, within=10, suffix=".ts"),
    "motion jpeg in avi": Wild(make=_video("-c:v", "mjpeg", "-q:v", "2"), colour=GREEN, within=10, suffix=".avi"),
    "prores": Wild(make=_video("-c:v", "prores_ks"), colour=GREEN, within=8, suffix=".mov"),
    "an animated gif": Wild(make=_video("-r", "24"), colour=GREEN, within=20, suffix=".gif", said="resampled"),
    "with sound": Wild(
        make=_video("-f", "lavfi", "-i", "sine=d=1", "-shortest"), colour=GREEN, within=8, suffix=".mp4"
    ),
    "hdr10": Wild(make=hdr_video, colour=(225, 225, 225), within=30, suffix=".mp4", said="HDR"),
    "hlg": Wild(
        make=lambda path: hdr_video(path, transfer="arib-std-b67"),
        colour=(225, 225, 225),
        within=30,
        suffix=".mp4",
        said="HDR",
    ),
    "display p3": Wild(
        make=_video("-vf", _P3),
        colour=(0, 203, 78),
        within=24,
        suffix=".mp4",
        said="Display P3 colours are converted",
    ),
    "12 frames a second": Wild(
        make=_video(source=_FLAT.replace("r=24", "r=12")), colour=GREEN, within=8, suffix=".mp4", said="resampled"
    ),
    "60 frames a second": Wild(
        make=_video(source=_FLAT.replace("r=24", "r=60")), colour=GREEN, within=8, suffix=".mp4", said="resampled"
    ),
    "23.976 frames a second": Wild(
        make=_video(source=_FLAT.replace("r=24", "r=24000/1001")), colour=GREEN, within=8, suffix=".mp4"
    ),
    "pixels twice as wide": Wild(make=_video("-vf", "setsar=2"), colour=GREEN, within=8, suffix=".mp4", said="2:1"),
    "pixels twice as high": Wild(make=_video("-vf", "setsar=1/2"), colour=GREEN, within=8, suffix=".mp4", said="1:2"),
    "interlaced": Wild(
        make=_video("-vf", "interlace", "-flags", "+ildct+ilme", source=_FLAT.replace("r=24", "r=48")),
        colour=GREEN,
        within=8,
        suffix=".mp4",
        said="interlaced",
    ),
    **{f"interlaced, {codec}": _interlaced(codec) for codec in ("libx264", "mpeg2video", "mpeg4", "ffv1", "prores_ks")},
    "1000 frames a second": Wild(
        make=_video(source=_FLAT.replace("r=24", "r=1000").replace("d=1", "d=0.5")),
        colour=GREEN,
        within=8,
        suffix=".mp4",
        said="1000 frames a second are resampled",
    ),
    "a rate that varies": Wild(
        make=_video(
            "-fps_mode", "vfr", "-vf", "select='lt(n,24)*not(mod(n,3))+gte(n,24)'", source=_FLAT.replace("d=1", "d=2")
        ),
        colour=GREEN,
        within=8,
        suffix=".mkv",
        said="its frame rate varies",
    ),
    "a start at 10 s": Wild(make=_video("-output_ts_offset", "10"), colour=GREEN, within=8, suffix=".mp4"),
    "an edit list": Wild(
        make=_changed(_video(source=_FLAT.replace("d=1", "d=2")), "-ss", "0.5"), colour=GREEN, within=8, suffix=".mp4"
    ),
    "turned by a quarter": Wild(
        make=_changed(_video(), "-display_rotation", "90"), colour=GREEN, within=8, suffix=".mp4"
    ),
    "mirrored": Wild(make=_changed(_video(), "-display_hflip"), colour=GREEN, within=8, suffix=".mp4"),
    "turned, of wide pixels": Wild(
        make=_changed(_video("-vf", "setsar=2"), "-display_rotation", "90"),
        colour=GREEN,
        within=8,
        suffix=".mp4",
        said="1:2",
    ),
    "pixels a hundred times as wide": Wild(
        make=_video("-vf", "setsar=100", source=_FLAT.replace("64x32", "1920x1080").replace("d=1", "d=0.3")),
        refused="with square ones it has 192000 x 1080",
        suffix=".mp4",
    ),
    "five languages": Wild(make=_many_streams, colour=GREEN, within=8, suffix=".mkv"),
    "a title like a stream": Wild(
        make=_video("-metadata", "title=A: Video: h264, smpte2084, 12 fps, [SAR 2:1 DAR 1:1]"),
        colour=GREEN,
        within=8,
        suffix=".mp4",
    ),
    "a comment like a stream": Wild(
        make=_video("-metadata", "comment=x\nStream #0:0: Video: h264, smpte2084, 12 fps"),
        colour=GREEN,
        within=8,
        suffix=".mkv",
    ),
    **{
        f"transparent, {name}": Wild(
            make=_video(*arguments, source=_CLEAR),
            colour=(0, 0, 0),
            suffix=suffix,
            said="what is transparent shows black",
        )
        for name, arguments, suffix in (
            ("prores", ("-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"), ".mov"),
            ("vp9", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"), ".webm"),
            ("vp8", ("-c:v", "libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0"), ".webm"),
            ("qtrle", ("-c:v", "qtrle", "-pix_fmt", "argb"), ".mov"),
            ("apng", ("-f", "apng", "-pix_fmt", "rgba"), ".png"),
        )
    },
    "hdr10 that names neither matrix nor primaries": Wild(
        make=_tagged("unknown", "unknown", "smpte2084"), colour=(0, 251, 0), within=12, suffix=".mp4", said="HDR"
    ),
    "hlg that names no primaries": Wild(
        make=_tagged("bt2020nc", "unknown", "arib-std-b67"), colour=(0, 227, 43), within=12, suffix=".mp4", said="HDR"
    ),
    "bt.2020 that names primaries alone": Wild(
        make=_tagged("unknown", "bt2020", "unknown"), colour=(0, 195, 62), within=12, suffix=".mp4", said="BT.2020"
    ),
    "display p3 that names primaries alone": Wild(
        make=_tagged("unknown", "smpte432", "unknown", "yuv420p"),
        colour=(0, 183, 71),
        within=12,
        suffix=".mp4",
        said="Display P3",
    ),
    "ycgco": Wild(
        make=_video("-vf", "format=gbrp,zscale=matrix=ycgco:range=limited,format=yuv444p", "-colorspace", "ycgco"),
        colour=GREEN,
        within=8,
        suffix=".mp4",
        said="ycgco colours are converted",
    ),
    "colours that nothing converts": Wild(
        make=_tagged("bt2020c", "bt2020", "smpte2084"),
        refused="its colours cannot be converted to BT.709 (matrix bt2020c",
        suffix=".mp4",
    ),
    "dolby vision 5": Wild(make=_dolby_vision, refused="it is Dolby Vision", suffix=".mp4"),
    "dolby vision 8.1 over hdr10": Wild(
        make=lambda path: _dolby_vision(path, profile=8, compatibility=1), colour=GREEN, within=8, suffix=".mp4"
    ),
    "encrypted": Wild(
        make=_video(
            *("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb"),
            *("-encryption_kid", "a7e61c373e219033c21091fa607bf3b8"),
            source=_TEST,
        ),
        refused="it is encrypted",
        suffix=".mp4",
    ),
    "matroska cut in half": Wild(
        make=_bytes_of(_video(source=_TEST), _half), refused="the file is cut short: ", suffix=".mkv"
    ),
    "webm cut in half": Wild(
        make=_bytes_of(_video("-c:v", "libvpx", source=_TEST), _half), refused="the file is cut short: ", suffix=".webm"
    ),
    "flash cut in half": Wild(
        make=_bytes_of(_video("-c:v", "flv", source=_TEST), _half), refused="damaged or cut short after", suffix=".flv"
    ),
    "an index that names 80 million frames": Wild(make=_index_bomb, refused="cannot be read as a video", suffix=".mp4"),
    "a pause of a day": Wild(
        make=_video("-vf", "setpts=if(gt(N\\,5)\\,PTS+100000/TB\\,PTS)", source=_FLAT.replace("r=24", "r=12")),
        refused="far too few frames for it",
        suffix=".mp4",
    ),
    "subtitles alone": Wild(
        make=_raw(b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"), refused="it is text", suffix=".mkv"
    ),
    "a still avif": Wild(
        make=_video("-frames:v", "1", "-c:v", "libaom-av1", "-cpu-used", "8"),
        refused="the video has 1 frame",
        suffix=".avif",
    ),
    "a webp that stands still": Wild(
        make=_saved(kind="WEBP"), refused="cannot be read as a video (it is a WebP image) (", suffix=".webp"
    ),
    "sound alone": Wild(make=_sound, refused="no pictures", suffix=".mp4"),
    "without its index": Wild(
        make=_bytes_of(_video(source=_TEST), lambda data: data[: data.rindex(b"moov") - 4]),
        refused="index at its end is missing",
        suffix=".mp4",
    ),
    "cut in half after its index": Wild(
        make=_bytes_of(_video("-movflags", "+faststart", source=_TEST), _half),
        refused="the file is cut short: ",
        suffix=".mp4",
    ),
    "three frames": Wild(make=_video("-frames:v", "3"), refused="the video has 3 frames, 5 are needed", suffix=".mp4"),
    "a playlist": Wild(
        make=_raw(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
        refused="a playlist",
        suffix=".m3u8",
    ),
    "a picture": Wild(make=_JPEG, refused="cannot be read as a video|the video has 1 frame", suffix=".jpg"),
    "text": Wild(make=_raw(b"once upon a time" * 40), refused="it is text", suffix=".mp4"),
    "an empty file": Wild(make=_raw(b""), refused="empty", suffix=".mp4"),
}


def write_all(folder: Path) -> list[Path]:
    """Every file, named by its kind."""
    written = []
    for kind, files in (("picture", PICTURES), ("video", VIDEOS)):
        for name, wild in files.items():
            path = folder / f"{kind} {name.replace('/', '-')}{wild.suffix}"
            wild.make(path)
            written.append(path)
    return written


if __name__ == "__main__":
    print("\n".join(map(str, write_all(Path(sys.argv[1])))))
