"""Parts of a preview: they follow each other frame by frame, as one file and as an HLS playlist."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from render_farm.media.ffmpeg import ffmpeg_path
from render_farm.media.mp4 import probe_mp4, read_frames
from render_farm.media.preview import contact_sheet, encode_part, playlist, read_playlist, small_frame


def grey(value: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


LENGTHS = (25, 20, 1)


@pytest.fixture(scope="module")
def parts():
    """46 frames, each five levels lighter than the one before."""
    frames, made, start = [grey(10 + 5 * index) for index in range(sum(LENGTHS))], [], 0
    for number, length in enumerate(LENGTHS):
        made.append(encode_part(frames[start : start + length], fps=24, first_frame=start, number=number))
        start += length
    return made


def test_parts_begin_alike_and_decode_as_one_film(parts, tmp_path):
    assert len({part.init for part in parts}) == 1
    for count in (1, 2, 3):
        path = tmp_path / f"{count}.mp4"
        path.write_bytes(parts[0].init + b"".join(part.media for part in parts[:count]))
        seen = [round(float(frame.mean()) - 10) / 5 for frame in read_frames(path)]
        assert np.abs(np.array(seen) - np.arange(sum(LENGTHS[:count]))).max() < 0.7
    info = probe_mp4(path)
    assert (info.num_frames, info.fps, info.width, info.height) == (46, 24, 96, 64)


def test_a_player_of_hls_finds_every_frame_at_its_time(parts, tmp_path):
    named = [(f"{number:04d}.m4s", part.num_frames / 24) for number, part in enumerate(parts)]
    (tmp_path / "init.mp4").write_bytes(parts[0].init)
    for (name, _), part in zip(named, parts, strict=True):
        (tmp_path / name).write_bytes(part.media)
    text = playlist(named, init="init.mp4", longest_s=100 / 24, ended=True)
    (tmp_path / "preview.m3u8").write_text(text)
    command = [ffmpeg_path(), "-v", "error", "-i", str(tmp_path / "preview.m3u8"), "-f", "framecrc", "-"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")
    times = [int(line.split(",")[1]) for line in said.stdout.splitlines() if not line.startswith("#")]
    assert times == list(range(46))
    assert text.splitlines()[2] == "#EXT-X-TARGETDURATION:5"
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert [(name, round(seconds * 24)) for name, seconds in read_playlist(text)] == [
        (name, part.num_frames) for (name, _), part in zip(named, parts, strict=True)
    ]
    assert "ENDLIST" not in playlist(named, init="init.mp4", longest_s=5, ended=False)
    assert read_playlist("<html>") == []


def test_frames_are_shown_small_and_even():
    assert small_frame(grey(7)).shape == (64, 96, 3)
    assert small_frame(grey(7, 544, 960)).shape == (272, 480, 3)
    assert small_frame(grey(7, 1280, 720)).shape == (640, 360, 3)
    assert small_frame(grey(7, 1472, 816)).shape == (490, 272, 3)  # a third of it has 491 rows
    assert (small_frame(grey(7, 544, 960)) == 7).all()


def test_a_contact_sheet_shows_nine_frames_from_first_to_last():
    with Image.open(io.BytesIO(contact_sheet([grey(5 * index) for index in range(49)]))) as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", (3 * 198 + 6, 3 * 134 + 6))
        shown = [
            sheet.getpixel((6 + 198 * column + 96, 6 + 134 * row + 64))[0] for row in range(3) for column in range(3)
        ]
    assert np.abs(np.array(shown) - np.arange(9) * 30).max() <= 3
    with Image.open(io.BytesIO(contact_sheet([grey(9)] * 2))) as sheet:
        assert sheet.size == (2 * 198 + 6, 134 + 6)
