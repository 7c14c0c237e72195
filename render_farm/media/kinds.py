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
    (b"8BPS", "a Photoshop document"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive (PyTorch files are such)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet table"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
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
        return {b"WEBP": "a WebP image", b"AVI ": "an AVI video"}.get(start[8:12], "a RIFF file")
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return "an AVIF or HEIC image" if brand in _STILL_BRANDS else "an MP4 video"
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a pickle"
    head = start[:64].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page (perhaps one that asks to sign in)"
    if head.startswith((b"<svg", b"<?xml")):
        return "XML or SVG"
    text = start.decode("utf-8", errors="ignore")
    if start and len(text.encode()) >= len(start) - 3 and all(c.isprintable() or c in "\r\n\t" for c in text):
        return "text"
    return ""
