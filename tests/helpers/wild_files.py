"""A file of every kind that people bring, and what is right for it. `python -m tests.helpers.wild_files FOLDER` writes
them all, to be looked at or rendered."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

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
