"""The last frames of a video (T H W 3, uint8 RGB), exactly, from any container in the list below."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from render_farm.errors import InputError, StorageFullError
from render_farm.media.fetching.uris import refusal
from render_farm.media.ffmpeg import Ffmpeg
from render_farm.media.fitting import Fit, fit_image
from render_farm.media.kinds import kind_of
from render_farm.media.limits import InputLimits

_FINISH_TIMEOUT_S = 60.0
_MAX_KEPT_BYTES = 512 << 20
# ffmpeg's readers of video files. Those that open further files by name (hls, dash, concat, imf, image sequences,
# Avisynth scripts) are not among them: a "video" could name files of this machine.
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,gif,apng,webp_anim,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,av1,ivf,ogg,flv,asf,mxf,nut,"
    "wtv,rm,dv,gxf,mjpeg,yuv4mpegpipe"
)
_READING = ("-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS)
_SAME_RATE = 0.01
"""Rates that differ by less are one, such as 23.976 and 24: no frame is dropped or repeated."""
# BT.2408 puts diffuse white of HDR at 203 nits. Mobius leaves what is darker than half of it as it is.
_FROM_HDR = (
    "zscale=transfer=linear:npl=203",
    "format=gbrpf32le",
    "zscale=primaries=bt709",
    "tonemap=tonemap=mobius:param=0.5:desat=0",
    "zscale=transfer=bt709:matrix=bt709:range=full",
    "format=gbrp",
)
_WIDE = {"bt2020": "BT.2020", "smpte432": "Display P3", "smpte431": "DCI-P3"}
"""Primaries as ffmpeg names them."""
_FROM_WIDE = ("zscale=primaries=bt709:transfer=bt709:matrix=gbr:range=full", "format=gbrp")


@dataclass(frozen=True, kw_only=True)
class SourceVideo:
    """An input video on disk, and what has to be done to its frames: they come out upright, whole (not interlaced), in
    square pixels, in BT.709 and at the film's rate."""

    path: Path
    uri: str
    limits: InputLimits
    filters: tuple[str, ...] = ()
    """Of ffmpeg, in order. Empty for an ordinary video, whose frames are then exactly what its codec gives."""
    notes: tuple[str, ...] = ()
    """The same for people."""

    @classmethod
    def describe(cls, path: Path, *, uri: str, fps: float | None, limits: InputLimits) -> SourceVideo:
        """Look at the video at `path`. `fps` is the rate that its frames are to have; None keeps its own. InputError
        when it has no pictures, or its file is cut short."""
        said = _said_of(path)
        line = next((line for line in said if ": Video: " in line and "(attached pic)" not in line), None)
        if line is None:
            if any(": Audio: " in text for text in said):
                raise refusal(uri, "it has sound and no pictures", "give a video")
            if any("moov atom not found" in text for text in said):
                raise refusal(uri, "the file is cut short: the index at its end is missing", "fetch or copy it again")
            return cls(path=path, uri=uri, limits=limits)  # decoding says what is wrong
        filters, notes = [], []
        if "top first" in line or "bottom first" in line:
            filters.append("bwdif=mode=send_frame:deint=interlaced")
            notes.append("it is interlaced: its fields are joined to whole frames")
        rate = re.search(r", ([0-9.]+) fps\b", line)
        if fps is not None and rate and abs(float(rate[1]) / fps - 1) > _SAME_RATE:
            filters.append(f"fps={Fraction(fps).limit_denominator(1001)}")
            notes.append(f"its {rate[1]} frames a second are resampled to the film's {fps:g}")
        if "smpte2084" in line or "arib-std-b67" in line:
            filters += _FROM_HDR
            notes.append("it is HDR: its brightness is tone-mapped to BT.709")
        elif name := next((name for code, name in _WIDE.items() if code in line), ""):
            filters += _FROM_WIDE
            notes.append(f"its {name} colours are converted to BT.709")
        ratio = re.search(r"\[SAR (\d+):(\d+)", line)
        if ratio and int(ratio[1]) > 0 < int(ratio[2]) and ratio[1] != ratio[2]:
            wide = int(ratio[1]) > int(ratio[2])
            size = "w=round(iw*sar):h=ih" if wide else "w=iw:h=round(ih/sar)"
            filters += [f"scale={size}:flags=lanczos", "setsar=1"]
            notes.append(f"its pixels are {ratio[1]}:{ratio[2]}: it is stretched to square ones")
        return cls(path=path, uri=uri, limits=limits, filters=tuple(filters), notes=tuple(notes))


def _said_of(path: Path) -> list[str]:
    """What ffmpeg prints of a file's streams, line by line."""
    ffmpeg = Ffmpeg([*_READING, "-i", f"file:{path}"], verbosity="info")
    ffmpeg.finish(_FINISH_TIMEOUT_S)  # it always fails: no output is named
    return ffmpeg.said


def decode_tail(source: SourceVideo, num_frames: int, *, width: int, height: int, fit: Fit) -> np.ndarray:
    """The last `num_frames` frames of the video, (num_frames, height, width, 3). Every frame is decoded, so they are
    the last ones whatever the container says about its length. InputError when there are fewer, or the video does not
    decode completely."""
    tail: deque[np.ndarray] = deque(maxlen=num_frames)
    total = 0
    for frame in decoded_frames(source):
        # Fitting only what is kept is cheaper; fitting at once needs less memory when frames are large and many.
        large = num_frames * frame.nbytes > _MAX_KEPT_BYTES
        tail.append(fitted_frame(frame, width, height, fit) if large else frame)
        total += 1
    if total < num_frames:
        raise refusal(
            source.uri,
            f"the video has {total} {'frame' if total == 1 else 'frames'}, {num_frames} are needed",
            f"give a video of at least {num_frames} frames, or a smaller overlap",
        )
    return np.stack([fitted_frame(frame, width, height, fit) for frame in tail])


def fitted_frame(frame: np.ndarray, width: int, height: int, fit: Fit) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(fit_image(Image.fromarray(frame), width=width, height=height, fit=fit))


def decoded_frames(source: SourceVideo) -> Iterator[np.ndarray]:
    """All frames, one at a time, with the colours of `mp4.read_frames`; turned as the file says."""
    path, uri, limits = source.path, source.uri, source.limits
    ffmpeg = Ffmpeg(
        [
            *(*_READING, "-xerror", "-err_detect", "explode"),
            *("-max_pixels", str(limits.max_frame_pixels), "-threads", "4", "-i", f"file:{path}", "-map", "0:V:0"),
            *(["-vf", ",".join(source.filters)] if source.filters else []),
            *("-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"),
        ],
        writes_stdout=True,
    )
    too_late = threading.Event()

    def end() -> None:
        too_late.set()
        with suppress(ProcessLookupError):
            os.kill(ffmpeg.pid, signal.SIGKILL)

    alarm = threading.Timer(limits.decode_timeout_s, end)
    alarm.daemon = True
    alarm.start()
    num_frames, complete = 0, True
    try:
        while complete and ffmpeg.stdout.readline(20) == b"P6\n":
            width, height = (int(number) for number in ffmpeg.stdout.readline(40).split())
            ffmpeg.stdout.readline(20)  # the largest value, 255
            pixels = ffmpeg.stdout.read(width * height * 3)
            complete = len(pixels) == width * height * 3
            if complete:
                num_frames += 1
                yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        alarm.cancel()  # before the process is collected: its number may then be another's
        status = ffmpeg.finish(_FINISH_TIMEOUT_S)
        if too_late.is_set():
            raise refusal(
                uri,
                f"decoding it took longer than {limits.decode_timeout_s:g} s",
                "cut the video to its end, or raise decode_timeout_s in the farm's settings",
            )
        if status != 0 or num_frames == 0 or not complete:
            raise _unreadable(path, uri, ffmpeg, status, num_frames)
    finally:
        alarm.cancel()
        ffmpeg.kill()


def _unreadable(path: Path, uri: str, ffmpeg: Ffmpeg, status: int, num_frames: int) -> InputError | StorageFullError:
    failure = ffmpeg.failure("read it", status)
    if isinstance(failure, StorageFullError):
        return failure
    with open(path, "rb") as file:
        kind = kind_of(file.read(512))
    words = failure.message.replace(str(path), "the file")[:600]
    if any("partial file" in line for line in ffmpeg.said):
        return refusal(
            uri, f"the file is cut short: {num_frames} of its frames can be decoded", "fetch or copy it again"
        )
    if num_frames == 0:
        return refusal(uri, f"it cannot be read as a video{f' (it is {kind})' if kind else ''}: {words}", _ADVICE)
    return refusal(uri, f"the video does not decode completely, only {num_frames} frames: {words}", _ADVICE)


_ADVICE = "give a complete video file, such as ffmpeg -i YOURS -c:v libx264 NEW.mp4 writes"
