"""Recognises a file by its first bytes, for messages that say more than "not an image"."""

from __future__ import annotations

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"II+\0", "a TIFF image"),
    (b"MM\0+", "a TIFF image"),
    (b"\0\0\1\0", "an icon"),
    (b"icns", "an icon"),
    (b"qoif", "a QOI image"),
    (b"DDS ", "a DDS texture"),
    (b"#?RADIANCE", "an HDR image (Radiance)"),
    (b"P6\n", "a PPM image"),
    (b"gimp xcf", "a GIMP document"),
    (b"FUJIFILMCCD-RAW", "a camera's raw picture"),
    (b"IIU\0", "a camera's raw picture"),
    (b"IIRO", "a camera's raw picture"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "a Photoshop document"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive (PyTorch files are such)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"GGUF", "a GGUF model"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet table"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media video"),
    (b"FLV\1", "a Flash video"),
    (b"OggS", "an Ogg file"),
    (b"\0\0\1\xba", "an MPEG video"),
    (b"ID3", "an MP3 file"),
    (b"data:", "a data: address (its text, not the file)"),
    (b"iVBORw0KGgo", "a PNG image in Base64"),
    (b"/9j/", "a JPEG image in Base64"),
    (b"#EXTM3U", "a playlist"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a pointer of Git LFS, without the file that it stands for"),
)
# ISO/IEC 23008-12 (HEIF): still pictures and sequences of them, whatever codec they use.
_STILL_BRANDS = frozenset(b"avif avis heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1".split())


def kind_of(start: bytes) -> str:
    """What begins with `start` (some hundred bytes), with its article; "" when unknown."""
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    if start[:4] == b"RIFF":
        kinds = {b"WEBP": "a WebP image", b"AVI ": "an AVI video", b"WAVE": "a WAV file"}
        return kinds.get(start[8:12], "a RIFF file")
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        if brand == b"crx ":
            return "a camera's raw picture"
        return "an AVIF or HEIC image" if brand in _STILL_BRANDS else "an MP4 video"
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a pickle"
    head = start[:64].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page (perhaps one that asks to sign in)"
    if head.startswith((b"<svg", b"<?xml")):
        return "XML or SVG"
    if start and not any(start):
        return "full of zeros (a copy that was not finished?)"
    text = start.decode("utf-8", errors="ignore")
    if start and len(text.encode()) >= len(start) - 3 and all(c.isprintable() or c in "\r\n\t" for c in text):
        return "text"
    return ""
