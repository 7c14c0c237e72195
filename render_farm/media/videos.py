"""The last frames of a video (T H W 3, uint8 RGB), exactly, from any container in the list below."""

from __future__ import annotations

import math
import os
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
from render_farm.media.video_probe import READING, memory_for, probe_video

_FINISH_TIMEOUT_S = 60.0
_MAX_KEPT_BYTES = 512 << 20
_MOST_FREE_FRAMES, _LEAST_FRAME_BYTES = 20_000, 4
"""A time stamp of a few bytes can stand for years of one frame. ffmpeg makes them all when it resamples a video."""
_DECODING = threading.BoundedSemaphore(2)
"""Manifests have thousands of videos, and each takes memory while it is decoded."""
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
_HDR = ("smpte2084", "arib-std-b67")
_WIDE = {"bt2020": "BT.2020", "smpte432": "Display P3", "smpte431": "DCI-P3"}
"""Primaries as ffmpeg names them."""
_OTHER_MATRICES = (
    "ycgco",
    "ycgco-re",
    "ycgco-ro",
    "ictcp",
    "ipt-c2",
    "chroma-derived-nc",
    "chroma-derived-c",
    "bt2020c",
)
_OTHER_CURVES = ("linear", "log100", "log316", "smpte428")
_OTHER = {*_OTHER_MATRICES, *_OTHER_CURVES}
"""Matrices and transfer functions that ffmpeg's own conversion to RGB does not know, or leaves as they are."""
_FROM_WIDE = ("zscale=primaries=bt709:transfer=bt709:matrix=gbr:range=full", "format=gbrp")
_ON_BLACK = (
    "format=gbrap",
    "split[own][base];[base]lutrgb=r=0:g=0:b=0:a=maxval[black];[black][own]overlay=format=gbrp",
    "format=gbrp",
)
"""As pictures show what is transparent in them. (`premultiply` is not exact where nothing is.)"""


@dataclass(frozen=True, kw_only=True)
class SourceVideo:
    """An input video on disk, and what has to be done to its frames: they come out upright, whole (not interlaced), in
    square pixels, on black, in BT.709 and at the film's rate."""

    path: Path
    uri: str
    limits: InputLimits
    filters: tuple[str, ...] = ()
    """Of ffmpeg, in order. Empty for an ordinary video, whose frames are then exactly what its codec gives."""
    notes: tuple[str, ...] = ()
    """The same for people."""
    decoder: tuple[str, ...] = ()
    """ffmpeg's options for one other than its own choice."""
    colours: str = "unknown"
    """Matrix, primaries and transfer function."""
    memory_bytes: int
    """Address space that ffmpeg may use."""

    @classmethod
    def describe(cls, path: Path, *, uri: str, fps: float | None, limits: InputLimits) -> SourceVideo:
        """Look at the video at `path`. `fps` is the rate that its frames are to have; None keeps its own. InputError
        when it has no pictures, pictures that cannot be used, or its file is cut short."""
        facts = probe_video(path, uri=uri, limits=limits)
        filters, notes = [], []
        if facts.is_interlaced:
            filters.append("bwdif=mode=send_frame:deint=interlaced")
            notes.append("it is interlaced: its fields are joined to whole frames")
        if facts.has_alpha or facts.decoder:
            filters += _ON_BLACK
            notes.append("it can be transparent: what is transparent shows black")
        rate = facts.rate
        if fps is not None and rate and facts.num_frames > 1:
            if facts.rate_varies:
                notes.append(f"its frame rate varies (about {rate:g}): it is resampled to the film's {fps:g}")
            elif abs(rate / fps - 1) > _SAME_RATE:
                notes.append(f"its {rate:g} frames a second are resampled to the film's {fps:g}")
            if facts.rate_varies or abs(rate / fps - 1) > _SAME_RATE:
                if facts.duration_s * fps > _MOST_FREE_FRAMES + path.stat().st_size // _LEAST_FRAME_BYTES:
                    raise refusal(uri, f"it lasts {facts.duration_s:,.0f} s, with far too few frames for it", _ADVICE)
                filters.append(f"fps={Fraction(fps).limit_denominator(1001)}")
        conversion, note = _to_bt709(*facts.colours)
        filters += conversion
        notes += [note] if note else []
        wide, high = facts.pixel_ratio
        if wide != high:
            width, height = facts.size
            stretched = (round(width * wide / high), height) if wide > high else (width, round(height * high / wide))
            if stretched[0] * stretched[1] > limits.max_frame_pixels:
                raise refusal(
                    uri,
                    f"its pixels are {wide}:{high}: with square ones it has {stretched[0]} x {stretched[1]}, more than "
                    f"the {limits.max_frame_pixels:,} allowed",
                    "set the right ratio, such as with ffmpeg -i YOURS -vf setsar=1 NEW.mp4",
                )
            filters += [f"scale=w={stretched[0]}:h={stretched[1]}:flags=lanczos", "setsar=1"]
            notes.append(f"its pixels are {wide}:{high}: it is stretched to square ones")
        return cls(
            path=path,
            uri=uri,
            limits=limits,
            filters=tuple(filters),
            notes=tuple(notes),
            decoder=facts.decoder,
            colours="matrix {}, primaries {}, transfer {}".format(*facts.colours),
            memory_bytes=memory_for(math.prod(facts.size)),
        )


def _to_bt709(matrix: str, primaries: str, transfer: str) -> tuple[tuple[str, ...], str]:
    """The filters that turn a video's colours into those of BT.709, and a note. Nothing for ordinary ones.

    What a video leaves unsaid is taken as the rest of it suggests. ffmpeg's filters refuse to guess.
    """
    is_hdr = transfer in _HDR
    given = {"colorspace": matrix, "color_primaries": primaries, "color_trc": transfer}
    is_wide = is_hdr or any(name.startswith("bt2020") or name == "ictcp" for name in (matrix, transfer))
    likely = {
        "color_primaries": "bt2020" if is_wide else "bt709",
        "colorspace": "bt2020nc" if is_wide or primaries == "bt2020" else "bt709",
        "color_trc": "bt709",
    }
    guessed = {name: likely[name] for name, value in given.items() if value in ("unknown", "reserved")}
    name = _WIDE.get(guessed.get("color_primaries", primaries), " and ".join(sorted(_OTHER & {matrix, transfer})))
    if not (is_hdr or name):
        return (), ""
    filters = (f"setparams={':'.join(f'{key}={value}' for key, value in guessed.items())}",) if guessed else ()
    if is_hdr:
        return filters + _FROM_HDR, "it is HDR: its brightness is tone-mapped to BT.709"
    return filters + _FROM_WIDE, f"its {name} colours are converted to BT.709"


def decode_tail(
    source: SourceVideo, num_frames: int, *, width: int, height: int, fit: Fit, keep_pixels: bool = True
) -> np.ndarray:
    """The last `num_frames` frames of the video, (num_frames, height, width, 3); none of them without `keep_pixels`,
    which only checks it. Every frame is decoded, so they are the last ones whatever the container says about its
    length. InputError when there are fewer, or the video does not decode completely."""
    tail: deque[np.ndarray] = deque(maxlen=num_frames)
    total = 0
    with _DECODING:
        for frame in decoded_frames(source):
            total += 1
            if keep_pixels:
                # Fitting only what is kept is cheaper. Fitting at once needs less memory for many large frames.
                large = num_frames * frame.nbytes > _MAX_KEPT_BYTES
                tail.append(fitted_frame(frame, width, height, fit) if large else frame)
    if total < num_frames:
        raise refusal(
            source.uri,
            f"the video has {total} {'frame' if total == 1 else 'frames'}, {num_frames} are needed",
            f"give a video of at least {num_frames} frames, or a smaller overlap",
        )
    if not keep_pixels:
        return np.empty((0, height, width, 3), np.uint8)
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
            *(*READING, "-xerror", "-err_detect", "explode", "-max_pixels", str(limits.max_frame_pixels)),
            *("-threads", "4", *source.decoder, "-i", f"file:{path}", "-map", "0:V:0"),
            *(["-vf", ",".join(source.filters)] if source.filters else []),
            *("-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"),
        ],
        writes_stdout=True,
        verbosity="level+warning",
        memory_bytes=source.memory_bytes,
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
        # A cut Matroska file is worth no more than a warning to ffmpeg.
        is_cut = any("File ended prematurely" in line for line in ffmpeg.said)
        if status != 0 or num_frames == 0 or not complete or is_cut:
            raise _unreadable(source, ffmpeg, status, num_frames)
    finally:
        alarm.cancel()
        ffmpeg.kill()


def _unreadable(source: SourceVideo, ffmpeg: Ffmpeg, status: int, num_frames: int) -> InputError | StorageFullError:
    path, uri = source.path, source.uri
    failure = ffmpeg.failure("read it", status)
    if isinstance(failure, StorageFullError):
        return failure
    words, said = failure.message.replace(str(path), "the file")[:600], "\n".join(ffmpeg.said)
    with open(path, "rb") as file:
        start = file.read(_HEAD_BYTES)
        file.seek(max(0, file.seek(0, os.SEEK_END) - _HEAD_BYTES))
        kind, is_encrypted = kind_of(start[:512]), b"encv" in start or b"encv" in file.read()
    if "partial file" in said or "File ended prematurely" in said:
        return refusal(
            uri, f"the file is cut short: {num_frames} of its frames can be decoded", "fetch or copy it again"
        )
    if is_encrypted:
        return refusal(uri, "it is encrypted (DRM)", "give a video without")
    if "Cannot allocate memory" in said or status == -signal.SIGABRT:
        return refusal(uri, "reading it needs more memory than its pictures can explain", _ADVICE)
    if any(sign in said for sign in ("[Parsed_zscale", "Impossible to convert", "[swscaler")):
        return refusal(uri, f"its colours cannot be converted to BT.709 ({source.colours})", "export it in BT.709")
    if num_frames and "corrupt input packet" in said:
        return refusal(uri, f"it is damaged or cut short after {num_frames} frames", "fetch or copy it again")
    if num_frames == 0:
        more = "" if "not on whitelist" in said else f": {words}"
        return refusal(uri, f"it cannot be read as a video{f' (it is {kind})' if kind else ''}{more}", _ADVICE)
    return refusal(uri, f"the video does not decode completely, only {num_frames} frames: {words}", _ADVICE)


_HEAD_BYTES = 4 << 20
_ADVICE = "give a complete video file, such as ffmpeg -i YOURS -c:v libx264 NEW.mp4 writes"
