"""Pictures of a video: the poster, and the film strip for pages that cannot play one. Frames are H W 3, uint8 RGB."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from render_farm.media.ffmpeg import write_failure
from render_farm.media.mp4 import probe_mp4, read_frames


def write_poster(frame: np.ndarray, path: str | os.PathLike[str], *, quality: int = 90, xmp: bytes = b"") -> None:
    """Write one frame as a JPEG that carries the packet `xmp` (`provenance.xmp_packet`), whole or not at all.
    StorageFullError or StorageError when it cannot be written."""
    _save(Image.fromarray(_checked(frame), "RGB"), Path(path), "JPEG", quality=quality, optimize=True, xmp=xmp)


def evenly_spaced_frames(video: str | os.PathLike[str], num_frames: int) -> list[np.ndarray]:
    """`num_frames` frames of a video, first and last included, at even distances; all of them when it has no more.
    Decodes it twice. InputError as in `mp4.probe_mp4`."""
    total = probe_mp4(video).num_frames
    wanted = set(np.linspace(0, total - 1, min(num_frames, total)).round().astype(int).tolist())
    return [frame for index, frame in enumerate(read_frames(video)) if index in wanted]


def film_strip(
    frames: Sequence[np.ndarray],
    path: str | os.PathLike[str],
    *,
    num_columns: int | None = None,
    tile_width: int = 192,
    gap: int = 6,
    background: tuple[int, int, int] = (24, 24, 27),
) -> None:
    """Lay frames of one size side by side, `num_columns` a row (default: all in one), and write them as a PNG.

    Tiles are `tile_width` pixels wide: tiny frames are enlarged, by a whole factor without smoothing where that is
    exact, so that their pixels stay crisp; others are resampled (Lanczos). StorageFullError or StorageError when it
    cannot be written.
    """
    sheet = sheet_of(frames, num_columns=num_columns, tile_width=tile_width, gap=gap, background=background)
    _save(sheet, Path(path), "PNG", optimize=True)


def sheet_of(
    frames: Sequence[np.ndarray],
    *,
    num_columns: int | None = None,
    tile_width: int = 192,
    gap: int = 6,
    background: tuple[int, int, int] = (24, 24, 27),
) -> Image.Image:
    """The picture that `film_strip` writes."""
    if not frames:
        raise ValueError("a film strip needs at least one frame")
    tiles = [_tile(_checked(frame), tile_width) for frame in frames]
    if len({tile.size for tile in tiles}) != 1:
        raise ValueError("the frames of a film strip have one size")
    columns = max(1, min(num_columns or len(tiles), len(tiles)))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), background)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet


def _tile(frame: np.ndarray, tile_width: int) -> Image.Image:
    image = Image.fromarray(frame, "RGB")
    height = max(1, round(image.height * tile_width / image.width))
    crisp = tile_width % image.width == 0
    return image.resize((tile_width, height), Image.Resampling.NEAREST if crisp else Image.Resampling.LANCZOS)


def _checked(frame: np.ndarray) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is uint8 of shape (height, width, 3), not {frame.dtype} {frame.shape}")
    return np.ascontiguousarray(frame)


def _save(image: Image.Image, path: Path, kind: str, **options: object) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(part, kind, **options)
        part.replace(path)
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()
