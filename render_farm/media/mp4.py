"""MP4 in and out, frame by frame (H W 3, uint8 RGB): memory does not grow with the length of the video."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from render_farm.errors import InputError
from render_farm.media.ffmpeg import Ffmpeg, write_failure
from render_farm.media.provenance import xmp_box

_FINISH_TIMEOUT_S = 600.0
# x264's output depends on its number of threads, and its default on the machine's: fixed, so that the same frames
# give the same file everywhere.
_NUM_THREADS = "4"
_SCALING = "bicubic+accurate_rnd+full_chroma_int+bitexact"
BT709 = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
"""Marks frames as BT.709. Options of the encoder do not: the properties of the frames win over them."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What decoding a whole video found."""

    width: int
    height: int
    fps: float
    num_frames: int


class Mp4Writer:
    """Writes H.264 (yuv420p, BT.709, faststart) while frames come. A context manager:

        with Mp4Writer("a.mp4", width=960, height=544, fps=24, quality=8) as writer:
            for frame in frames:
                writer.append(frame)

    The file appears under `path` when the block ends well, complete; when it raises, or after `abort()`, there is
    nothing. Frames are never resized, dropped or repeated, and the same frames give the same bytes.

    `quality` is imageio's: 0 to 10, CRF `int((1 - quality / 10) * 51)`; 10 is lossless H.264, which not every player
    shows. Height and width are even numbers (yuv420p has one colour sample for 2x2 pixels). ValueError for settings
    that cannot work, MediaError when ffmpeg fails, StorageFullError when the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: float | Fraction,
        quality: float = 8.0,
        *,
        xmp: bytes = b"",
    ) -> None:
        """`xmp` is the packet that the file carries (`provenance.xmp_packet`); none by default."""
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise ValueError(f"{width}x{height}: H.264 needs an even width and height")
        if not 0 <= quality <= 10:
            raise ValueError(f"quality {quality}: 0 to 10 are allowed")
        rate = Fraction(fps).limit_denominator(1001)
        if rate <= 0:
            raise ValueError(f"fps {fps}: a positive number is needed")
        self.path = Path(path)
        self.num_frames = 0
        self._xmp = xmp
        self._shape = (height, width, 3)
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._ffmpeg: Ffmpeg | None = Ffmpeg(_encoding(self._part, width, height, rate, quality), reads_stdin=True)

    def append(self, frame: np.ndarray) -> None:
        """Add one frame, (height, width, 3) uint8 RGB. Waits while ffmpeg is behind by more than a pipe's worth.
        After an error the writer is aborted."""
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise ValueError(f"a frame is uint8 of shape {self._shape}, not {frame.dtype} {frame.shape}")
        ffmpeg = self._running()
        try:
            ffmpeg.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self._fail(ffmpeg)
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file and give it its name. Fine to call again."""
        if self._ffmpeg is None:
            return
        if self.num_frames == 0:
            self.abort()
            raise ValueError(f"{self.path}: a video needs at least one frame")
        ffmpeg = self._ffmpeg
        try:
            ffmpeg.stdin.close()
        except BrokenPipeError:
            self._fail(ffmpeg)
        try:
            status = ffmpeg.finish(_FINISH_TIMEOUT_S)
            if status != 0:
                raise ffmpeg.failure(f"write {self.path}", status)
            with open(self._part, "ab") as file:
                file.write(xmp_box(self._xmp))
            self._part.replace(self.path)
        except OSError as error:
            raise write_failure(self.path, error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop, and remove what was written. Fine to call at any time, again, and after `close` (then it does
        nothing)."""
        if self._ffmpeg is None:
            return
        self._ffmpeg.kill()
        self._ffmpeg = None
        with suppress(OSError):
            self._part.unlink()

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _running(self) -> Ffmpeg:
        if self._ffmpeg is None:
            raise ValueError(f"{self.path}: the writer is closed")
        return self._ffmpeg

    def _fail(self, ffmpeg: Ffmpeg) -> None:
        try:
            raise ffmpeg.failure(f"write {self.path}", ffmpeg.finish(_FINISH_TIMEOUT_S))
        finally:
            self.abort()


def probe_mp4(path: str | os.PathLike[str]) -> VideoInfo:
    """Decode a video from beginning to end and say what is in it. InputError when it is missing, is no video or does
    not decode completely."""
    # YUV4MPEG2 says size and rate in its first line, and each frame has its own mark: nothing is guessed.
    ffmpeg = _decode(path, ["-f", "yuv4mpegpipe", "-strict", "-1"])
    try:
        header = ffmpeg.stdout.readline(200).decode(errors="replace").split()
        fields = {field[0]: field[1:] for field in header[1:]}
        num_frames = 0
        if header:
            width, height = int(fields["W"]), int(fields["H"])
            rate = Fraction(fields["F"].replace(":", "/"))
            num_bytes = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
            while ffmpeg.stdout.readline(200).startswith(b"FRAME") and _skip(ffmpeg, num_bytes):
                num_frames += 1
        status = ffmpeg.finish(_FINISH_TIMEOUT_S)
    finally:
        ffmpeg.kill()
    if status != 0 or num_frames == 0:
        raise _unreadable(path, ffmpeg, status)
    return VideoInfo(width=width, height=height, fps=float(rate), num_frames=num_frames)


def read_frames(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """The frames of a video in order, each (H, W, 3) uint8 RGB; one is in memory at a time. InputError when the file
    is missing, is no video, or ends in the middle; then the frames before have been given."""
    ffmpeg = _decode(path, ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24"])
    num_frames = 0
    try:
        while ffmpeg.stdout.readline(20) == b"P6\n":
            width, height = (int(number) for number in ffmpeg.stdout.readline(40).split())
            ffmpeg.stdout.readline(20)  # the largest value, 255
            pixels = ffmpeg.stdout.read(width * height * 3)
            if len(pixels) < width * height * 3:
                break
            num_frames += 1
            yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        status = ffmpeg.finish(_FINISH_TIMEOUT_S)
        if status != 0 or num_frames == 0:
            raise _unreadable(path, ffmpeg, status)
    finally:
        ffmpeg.kill()


def _encoding(part: Path, width: int, height: int, rate: Fraction, quality: float) -> list[str]:
    crf = int((1 - quality / 10.0) * 51)
    return [
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "pipe:0"),
        # The conversion to YUV is the one that the file's tags promise to players. No size is given: none changes.
        *(
            "-vf",
            f"scale=out_color_matrix=bt709:out_range=tv:flags={_SCALING},{BT709}",
        ),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(crf), "-threads", _NUM_THREADS, "-an"),
        *("-fps_mode", "passthrough", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),
        *("-movflags", "+faststart", "-f", "mp4", "-y", f"file:{part}"),
    ]


def _decode(path: str | os.PathLike[str], output: list[str]) -> Ffmpeg:
    if not Path(path).is_file():
        raise InputError(f"video {os.fspath(path)}: there is no such file")
    source = ["-protocol_whitelist", "file", "-xerror", "-err_detect", "explode", "-i", f"file:{os.fspath(path)}"]
    return Ffmpeg([*source, "-map", "0:v:0", "-fps_mode", "passthrough", *output, "pipe:1"], writes_stdout=True)


def _skip(ffmpeg: Ffmpeg, num_bytes: int) -> bool:
    while num_bytes > 0:
        block = ffmpeg.stdout.read(min(num_bytes, 1 << 20))
        if not block:
            return False
        num_bytes -= len(block)
    return True


def _unreadable(path: str | os.PathLike[str], ffmpeg: Ffmpeg, status: int) -> InputError:
    return InputError(
        f"video {os.fspath(path)}: it does not decode completely ({ffmpeg.failure('read it', status).message})",
        advice="give a complete video that ffmpeg can decode",
    )
