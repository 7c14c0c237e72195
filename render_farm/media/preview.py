"""What can be watched of a film before it is finished: small fragmented MP4 parts, one a segment, each after the other.

Every part is encoded by itself and begins with a key frame, so whoever decodes a segment can make its part alone. The
same settings give the same initialisation section (`ftyp moov`); behind it, parts (`moof mdat ...`) play in order, as
an HLS playlist (RFC 8216) or joined into one file. Frames are H W 3, uint8 RGB.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image

from render_farm.errors import MediaError
from render_farm.media.ffmpeg import Ffmpeg
from render_farm.media.mp4 import BT709
from render_farm.media.poster import sheet_of
from render_farm.media.provenance import xmp_box

SHEET_FRAMES = 9
_LONGEST_SIDE = 480
_TICKS_A_FRAME = 512
_TIMEOUT_S = 120.0
_NICENESS = 10
_ENTRY = re.compile(r"#EXTINF:([0-9.]+),\s*\n([^#\s]+)")


@dataclass(frozen=True, kw_only=True)
class PreviewPart:
    """One segment of a film as bytes."""

    init: bytes
    """The initialisation section; the same for all parts of a film."""
    media: bytes
    num_frames: int


def small_frame(frame: np.ndarray) -> np.ndarray:
    """The frame as a preview shows it: a whole factor smaller, less than 960 pixels long, with even sides; a small one
    as it is."""
    factor = max(frame.shape[:2]) // _LONGEST_SIDE
    if factor < 2:
        return frame
    small = np.asarray(Image.fromarray(frame).reduce(factor))
    return small[: small.shape[0] // 2 * 2, : small.shape[1] // 2 * 2]


def encode_part(
    frames: Sequence[np.ndarray], *, fps: float | Fraction, first_frame: int, number: int, xmp: bytes = b""
) -> PreviewPart:
    """Encode frames of one size that begin at frame `first_frame` of the film, as its part `number` (from 0). The
    initialisation section carries the packet `xmp` (`provenance.xmp_packet`).

    Runs at low priority. MediaError when ffmpeg fails, StorageFullError when the disk is full.
    """
    height, width = frames[0].shape[:2]
    rate = Fraction(fps).limit_denominator(1001)
    ticks_a_frame = _TICKS_A_FRAME * rate.denominator
    ffmpeg = Ffmpeg(
        _encoding(width, height, rate, _TICKS_A_FRAME * rate.numerator), reads_stdin=True, writes_stdout=True
    )
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, ffmpeg.pid, _NICENESS)
    alarm = threading.Timer(_TIMEOUT_S, lambda: _end(ffmpeg.pid))
    alarm.daemon = True
    feeder = threading.Thread(target=_feed, args=(ffmpeg, frames), name="preview-frames", daemon=True)
    try:
        alarm.start()
        feeder.start()
        data = ffmpeg.stdout.read()
        feeder.join()
        alarm.cancel()  # before the process is collected: its number may then be another's
        status = ffmpeg.finish(_TIMEOUT_S)
        if status != 0:
            raise ffmpeg.failure("encode a preview", status)
    finally:
        alarm.cancel()
        ffmpeg.kill()
    boxes = _boxes(data)
    init = b"".join(box for kind, box in boxes if kind in (b"ftyp", b"moov")) + xmp_box(xmp)
    media = b"".join(
        _moved(box, by_ticks=first_frame * ticks_a_frame, by_fragments=number << 16) if kind == b"moof" else box
        for kind, box in boxes
        if kind in (b"moof", b"mdat")
    )
    return PreviewPart(init=init, media=media, num_frames=len(frames))


def playlist(parts: Sequence[tuple[str, float]], *, init: str, longest_s: float, ended: bool) -> str:
    """The HLS playlist of parts, each a name and its seconds; no part lasts longer than `longest_s`. Players request
    one that has not `ended` again, and start at its beginning, not at the newest part."""
    lines = [
        *("#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{max(1, math.ceil(longest_s))}"),
        *("#EXT-X-MEDIA-SEQUENCE:0", "#EXT-X-START:TIME-OFFSET=0", "#EXT-X-INDEPENDENT-SEGMENTS"),
        f'#EXT-X-MAP:URI="{init}"',
    ]
    for name, seconds in parts:
        lines += [f"#EXTINF:{seconds:.6f},", name]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if ended else []), ""])


def read_playlist(text: str) -> list[tuple[str, float]]:
    """Names and seconds of the parts that `playlist` listed; [] for what is no playlist."""
    if not text.startswith("#EXTM3U"):
        return []
    return [(name, float(seconds)) for seconds, name in _ENTRY.findall(text)]


def contact_sheet(frames: Sequence[np.ndarray], *, xmp: bytes = b"") -> bytes:
    """Nine frames of `frames` at even distances (all of them when there are no more), three a row, as a JPEG that
    carries the packet `xmp`."""
    wanted = np.linspace(0, len(frames) - 1, min(SHEET_FRAMES, len(frames))).round().astype(int)
    data = io.BytesIO()
    sheet_of([frames[index] for index in wanted], num_columns=3).save(data, "JPEG", quality=85, xmp=xmp)
    return data.getvalue()


def _encoding(width: int, height: int, rate: Fraction, timescale: int) -> list[str]:
    return [
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "pipe:0"),
        *("-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=fast_bilinear," + BT709),
        *("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-crf", "25", "-threads", "1", "-an"),
        # No frame refers to a later one, so that decoding and showing have one clock, which `_moved` sets.
        *("-bf", "0", "-g", str(max(1, round(rate) * 2)), "-sc_threshold", "0"),
        *("-fps_mode", "passthrough", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),
        *("-video_track_timescale", str(timescale), "-use_editlist", "0"),
        *("-movflags", "+empty_moov+default_base_moof+frag_keyframe+skip_trailer", "-f", "mp4", "pipe:1"),
    ]


def _feed(ffmpeg: Ffmpeg, frames: Sequence[np.ndarray]) -> None:
    with suppress(BrokenPipeError, ValueError):  # ffmpeg ended, or was ended; its exit status tells
        for frame in frames:
            ffmpeg.stdin.write(np.ascontiguousarray(frame).data)
        ffmpeg.stdin.close()


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 9)


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Top-level boxes of an MP4 (ISO/IEC 14496-12): kind and all bytes. MediaError for anything else."""
    boxes, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8 or at + size > len(data):
            raise MediaError(f"ffmpeg wrote no whole MP4: a box of {size} bytes at {at} of {len(data)}")
        boxes.append((data[at + 4 : at + 8], data[at : at + size]))
        at += size
    return boxes


def _moved(moof: bytes, *, by_ticks: int, by_fragments: int) -> bytes:
    """The fragment later in time and with a higher number: `baseMediaDecodeTime` of its `tfdt`, `sequence_number` of
    its `mfhd`."""
    moved = bytearray(moof)
    header, time = moof.find(b"mfhd"), moof.find(b"tfdt")
    if header < 0 or time < 0 or moof[time + 4] != 1:
        raise MediaError("ffmpeg wrote a fragment without its number or time")
    (fragment,) = struct.unpack_from(">I", moof, header + 8)
    struct.pack_into(">I", moved, header + 8, fragment + by_fragments)
    (ticks,) = struct.unpack_from(">Q", moof, time + 8)
    struct.pack_into(">Q", moved, time + 8, ticks + by_ticks)
    return bytes(moved)
