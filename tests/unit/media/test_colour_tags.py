"""Every film and preview says that it is BT.709, in its stream and in its container."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from render_farm.media.ffmpeg import ffmpeg_path
from render_farm.media.mp4 import Mp4Writer
from render_farm.media.preview import encode_part

FRAMES = [np.full((32, 64, 3), value, np.uint8) for value in range(0, 240, 20)]


def film(path: Path, quality: float) -> Path:
    with Mp4Writer(path, width=64, height=32, fps=24, quality=quality) as writer:
        for frame in FRAMES:
            writer.append(frame)
    return path


def preview(path: Path) -> Path:
    part = encode_part(FRAMES, fps=24, first_frame=0, number=0)
    path.write_bytes(part.init + part.media)
    return path


@pytest.fixture(params=["film", "lossless film", "preview"])
def video(request, tmp_path):
    if request.param == "preview":
        return preview(tmp_path / "a.mp4")
    return film(tmp_path / "a.mp4", 10.0 if "lossless" in request.param else 8.0)


def test_the_container_says_bt709(video):
    # ISO/IEC 14496-12: `colr` of type nclx holds primaries, transfer and matrix (1 is BT.709), and a full-range flag.
    data = video.read_bytes()
    at = data.index(b"colrnclx") + 8
    assert data[at : at + 7] == bytes((0, 1, 0, 1, 0, 1, 0))


def test_the_stream_says_bt709(video):
    command = [ffmpeg_path(), "-i", video, "-c", "copy", "-bsf:v", "trace_headers", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    for field in ("colour_primaries", "transfer_characteristics", "matrix_coefficients"):
        values = {line.split()[-1] for line in said.splitlines() if field in line}
        assert values == {"1"}, field
    assert {line.split()[-1] for line in said.splitlines() if "video_full_range_flag" in line} == {"0"}
