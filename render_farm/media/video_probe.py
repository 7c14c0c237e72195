"""What ffmpeg says of an input video: its container, and its first frames.

Only frames tell for certain whether a video is interlaced, has transparent parts, and in which colours it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from render_farm.errors import MediaError
from render_farm.media.fetching.uris import refusal
from render_farm.media.ffmpeg import Ffmpeg
from render_farm.media.limits import InputLimits

# ffmpeg's readers of video files. Those that open further files by name (hls, dash, concat, imf, image sequences,
# Avisynth scripts) are not among them: a "video" could name files of this machine.
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,gif,apng,webp_anim,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,av1,ivf,ogg,flv,asf,mxf,nut,"
    "wtv,rm,dv,gxf,mjpeg,yuv4mpegpipe"
)
READING = ("-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-filter_threads", "4")
_TIMEOUT_S = 60.0
_MOST_LINES = 20_000
"""Of what ffmpeg says of a container. Films with many languages and chapters have hundreds."""
_FRAMES = 5
_FIXED_BYTES = 3 << 29
_BYTES_PER_PIXEL = 96
"""Address space of ffmpeg: 16 reference frames of 10 bits, and some in the floats of the HDR filters."""
_STREAM = re.compile(r"Stream #0:\d+\S*: (\w+): ")
_WITH_ALPHA = re.compile(r"yuva|gbrap|rgba|bgra|argb|abgr|ya\d|ayuv|vuya|uyva|pal8")
_DOUBLE = 2.0
_SAME, _SAME_AT_FIRST = 0.01, 0.1
_JITTER_S = 0.0025
"""Matroska counts milliseconds."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """A video as ffmpeg sees it, before anything is done to it."""

    num_frames: int
    """That were looked at. 0 when none could be decoded."""
    rate: float | None
    """Frames a second, on average."""
    rate_varies: bool
    duration_s: float
    """As the container says. 0 when it does not."""
    is_interlaced: bool
    has_alpha: bool
    decoder: tuple[str, ...]
    """ffmpeg's options for a decoder other than its own choice."""
    pixel_ratio: tuple[int, int]
    """Width and height of a pixel."""
    size: tuple[int, int]
    """Width and height in pixels, turned as the file says."""
    colours: tuple[str, str, str]
    """Matrix, primaries and transfer as ffmpeg names them. "unknown" where the file does not say."""


def probe_video(path: Path, *, uri: str, limits: InputLimits) -> VideoFacts:
    """Look at the video at `path`. InputError when it has no pictures, too large or encoded ones, or its index is
    missing. What else is wrong with it is found when it is decoded."""
    said = _said(["-i", f"file:{path}"], uri, _FIXED_BYTES)
    line = _picture_line(said, uri)
    found = re.search(r", (\d+)x(\d+)\b", line)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if width * height > limits.max_frame_pixels:
        raise refusal(
            uri,
            f"its frames have {width} x {height} pixels, more than the {limits.max_frame_pixels:,} allowed",
            "scale it down, or raise max_frame_pixels in the settings",
        )
    dolby = next((text for text in said if "DOVI configuration record" in text), "")
    if re.search(r"profile: 5\b|profile: (?:10|20),.*compatibility id: 0\b", dolby):
        raise refusal(
            uri,
            "it is Dolby Vision without an ordinary picture below (profile 5, or 10 and 20 like it)",
            "export it as HDR10, HLG or SDR",
        )
    codec = re.search(r"Video: (vp[89])\b", line)
    decoder: tuple[str, ...] = ()
    if codec and any(re.match(r"alpha_mode\s*: 1", text) for text in said):
        decoder = ("-c:v", "libvpx-vp9" if codec[1] == "vp9" else "libvpx")  # ffmpeg's own leaves the alpha out
    lasts = next((found for text in said if (found := re.match(r"Duration: (\d+):(\d+):([\d.]+)", text))), None)
    duration_s = int(lasts[1]) * 3600 + int(lasts[2]) * 60 + float(lasts[3]) if lasts else 0.0
    shown = _shown_frames(path, uri, limits, decoder, width * height)
    return _facts(line, (width, height), decoder, shown, duration_s)


def memory_for(num_pixels: int) -> int:
    """Bytes of address space that ffmpeg may use for a video whose frames have that many pixels."""
    return _FIXED_BYTES + _BYTES_PER_PIXEL * num_pixels


def _said(arguments: list[str], uri: str, memory_bytes: int) -> list[str]:
    """What ffmpeg prints, line by line."""
    ffmpeg = Ffmpeg([*READING, *arguments], verbosity="info", most_lines=_MOST_LINES, memory_bytes=memory_bytes)
    try:
        ffmpeg.finish(_TIMEOUT_S)
    except MediaError:
        raise refusal(uri, f"looking at it took longer than {_TIMEOUT_S:g} s", "encode it again") from None
    return ffmpeg.said


def _picture_line(said: Sequence[str], uri: str) -> str:
    """The line of the stream that is decoded. Metadata and chapters hold text of any kind, so that only lines that
    begin like a stream's count."""
    streams = [(text, found[1]) for text in said if (found := _STREAM.match(text))]
    for text, kind in streams:
        if kind == "Video" and "(attached pic)" not in text:
            return text
    if any(kind == "Audio" for _, kind in streams):
        raise refusal(uri, "it has sound and no pictures", "give a video")
    if any("moov atom not found" in text for text in said):
        raise refusal(uri, "the file is cut short: the index at its end is missing", "fetch or copy it again")
    if streams or any(text.startswith("Input #0") for text in said):
        raise refusal(uri, "it has no pictures", "give a video")
    return ""  # decoding says what is wrong


def _shown_frames(path: Path, uri: str, limits: InputLimits, decoder: tuple[str, ...], num_pixels: int) -> list[str]:
    """What the filter `showinfo` says of the first frames: two lines of each, or more."""
    reading = ["-nostats", "-max_pixels", str(limits.max_frame_pixels), "-threads", "1", *decoder, "-i", f"file:{path}"]
    looking = ["-map", "0:V:0", "-frames:v", str(_FRAMES), "-vf", "showinfo=checksum=0", "-f", "null", "-"]
    said = _said([*reading, *looking], uri, memory_for(num_pixels))
    return [text for text in said if text.startswith("[Parsed_showinfo_0")]


def _facts(
    line: str, size: tuple[int, int], decoder: tuple[str, ...], shown: Sequence[str], duration_s: float
) -> VideoFacts:
    frames = [text for text in shown if " pts_time:" in text]
    first = frames[0] if frames else ""
    colours = next((found for text in shown if (found := re.search(_COLOURS, text))), None)
    turned = re.search(r"\bs:(\d+)x(\d+)", first)
    ratio = re.search(r"\bsar:(\d+)/(\d+)", first)
    rate, varies = _rate(line, [float(found[1]) for text in frames if (found := re.search(_TIME, text))])
    pixels = re.search(r"\bfmt:(\w+)", first)
    return VideoFacts(
        num_frames=len(frames),
        rate=rate,
        rate_varies=varies,
        duration_s=duration_s,
        is_interlaced=any(re.search(r"\bi:[TB]\b", text) for text in frames)
        or re.search(r"(?:top|bottom) (?:coded )?first", line) is not None,
        has_alpha=pixels is not None and _WITH_ALPHA.match(pixels[1]) is not None,
        decoder=decoder,
        pixel_ratio=(int(ratio[1]), int(ratio[2])) if ratio and int(ratio[1]) > 0 < int(ratio[2]) else (1, 1),
        size=(int(turned[1]), int(turned[2])) if turned else size,
        colours=(colours[1], colours[2], colours[3]) if colours else ("unknown", "unknown", "unknown"),
    )


_TIME = r"pts_time:(-?[\d.]+)"
_COLOURS = r"color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)"


def _rate(line: str, times: Sequence[float]) -> tuple[float | None, bool]:
    """Frames a second on average, and whether they vary. `times` are those of the first frames."""
    average, base = (_number(line, unit) for unit in ("fps", "tbr"))
    if average is None or base is None:
        return average or base, False
    if average > 10 * base:  # raw DV: its frames have no durations
        return base, False
    steps = [later - earlier for earlier, later in pairwise(times)]
    is_even = not steps or max(steps) - min(steps) <= _JITTER_S
    is_as_said = not steps or abs(sum(steps) / len(steps) * average - 1) <= _SAME_AT_FIRST
    is_same = abs(base / average - 1) <= _SAME
    counts_fields = abs(base / average / _DOUBLE - 1) <= _SAME
    return average, not is_as_said or not (is_same or (counts_fields and is_even))


def _number(line: str, unit: str) -> float | None:
    found = re.search(rf", ([\d.]+)(k?) {unit}\b", line)
    return float(found[1]) * (1000 if found[2] else 1) if found else None
