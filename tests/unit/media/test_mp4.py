"""MP4 files: every frame, the right size and rate, the same bytes, and clear errors."""

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from render_farm.errors import InputError, MediaError
from render_farm.media.mp4 import Mp4Writer, VideoInfo, probe_mp4, read_frames


def moving(num_frames, height=64, width=96):
    rows, columns = np.mgrid[:height, :width]
    for index in range(num_frames):
        yield np.stack([columns * 2 + index, rows * 3 + index, np.full_like(rows, index * 5)], -1).astype(np.uint8)


def write(path, frames, **options):
    frames = iter(frames)
    first = next(frames)
    settings = {"width": first.shape[1], "height": first.shape[0], "fps": 24, **options}
    with Mp4Writer(path, **settings) as writer:
        writer.append(first)
        for frame in frames:
            writer.append(frame)
    return path


@pytest.mark.parametrize("fps", [24, 7, 16, 29.97, 1, 120])
def test_50_frames_stay_50_frames_at_any_rate(tmp_path, fps):
    path = write(tmp_path / "a.mp4", moving(50), fps=fps)
    assert probe_mp4(path) == VideoInfo(width=96, height=64, fps=fps, num_frames=50)
    assert [frame.shape for frame in read_frames(path)] == [(64, 96, 3)] * 50
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("size", [(16, 16), (48, 80), (2, 2), (34, 50), (544, 960)])
def test_frames_are_never_resized(tmp_path, size):
    height, width = size
    info = probe_mp4(write(tmp_path / "a.mp4", moving(5, height, width)))
    assert (info.height, info.width, info.num_frames) == (height, width, 5)


@pytest.mark.parametrize("size", [(63, 96), (64, 95), (0, 64)])
def test_odd_sizes_are_refused_before_anything_is_written(tmp_path, size):
    with pytest.raises(ValueError, match="even"):
        Mp4Writer(tmp_path / "a.mp4", width=size[1], height=size[0], fps=24)
    assert list(tmp_path.iterdir()) == []


def test_one_frame_is_a_video(tmp_path):
    assert probe_mp4(write(tmp_path / "a.mp4", moving(1))).num_frames == 1


def test_colours_survive_encoding(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200)]
    path = write(tmp_path / "a.mp4", [np.full((64, 64, 3), colour, np.uint8) for colour in colours])
    for colour, frame in zip(colours, read_frames(path), strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 3


def test_the_file_is_h264_yuv420p_with_its_index_first(tmp_path):
    data = write(tmp_path / "a.mp4", moving(20)).read_bytes()
    assert data[4:8] == b"ftyp"
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    assert b"avc1" in data
    assert b"Lavf" not in data  # no version of the muxer: bytes depend on frames and settings only


@pytest.mark.slow
def test_the_same_frames_give_the_same_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 128, 128, 3), np.uint8)
    one, two = (write(tmp_path / name, noise).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert one == two


def test_quality_has_imageios_meaning(tmp_path):
    sizes = [write(tmp_path / f"{q}.mp4", moving(20), quality=q).stat().st_size for q in (0, 5, 8, 10)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[3]
    with pytest.raises(ValueError, match="quality"):
        Mp4Writer(tmp_path / "x.mp4", width=16, height=16, fps=24, quality=11)


def test_wrong_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="uint8"), Mp4Writer(tmp_path / "a.mp4", width=96, height=64, fps=24) as writer:
        writer.append(np.zeros((96, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="at least one"), Mp4Writer(tmp_path / "a.mp4", width=16, height=16, fps=24):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_leaves_nothing_and_an_older_file_alone(tmp_path):
    path = write(tmp_path / "a.mp4", moving(5))
    before = path.read_bytes()
    with pytest.raises(KeyError), Mp4Writer(path, width=96, height=64, fps=24) as writer:
        for frame in moving(10):
            writer.append(frame)
        raise KeyError("the renderer failed")
    writer.abort()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == before


def test_a_killed_ffmpeg_is_named_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(MediaError, match=r"a\.mp4: ffmpeg was ended by SIGKILL"),
        Mp4Writer(tmp_path / "a.mp4", width=960, height=544, fps=24) as writer,
    ):
        os.kill(writer._ffmpeg.pid, signal.SIGKILL)
        for frame in moving(50, 544, 960):
            writer.append(frame)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
import numpy as np
from render_farm.errors import StorageFullError
from render_farm.media.mp4 import Mp4Writer
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0).integers(0, 256, (20, 256, 256, 3), np.uint8)
try:
    with Mp4Writer(sys.argv[1], width=256, height=256, fps=24, quality=9) as writer:
        for frame in noise:
            writer.append(frame)
except StorageFullError as error:
    print("full:", error)
"""


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    """A limit on the size of files makes ffmpeg's writes fail in the middle, as a full disk does."""
    said = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "a.mp4"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert said.stdout.startswith("full:"), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "zeroed"])
def test_a_video_that_does_not_decode_is_named(tmp_path, damage):
    path = tmp_path / "a.mp4"
    if damage != "missing":
        data = bytearray(write(path, moving(50)).read_bytes())
        middle = len(data) // 2
        data[middle : middle + 300] = bytes(300)
        path.write_bytes({"text": b"hello", "cut": bytes(data[:middle]), "zeroed": bytes(data)}[damage])
    with pytest.raises(InputError, match=r"a\.mp4"):
        probe_mp4(path)
    with pytest.raises(InputError, match=r"a\.mp4"):
        list(read_frames(path))


def test_reading_may_stop_early(tmp_path):
    path = write(tmp_path / "a.mp4", moving(50))
    frames = read_frames(path)
    assert next(frames).shape == (64, 96, 3)
    frames.close()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    tracemalloc.start()
    try:
        path = write(tmp_path / "a.mp4", moving(400, 128, 128))  # 20 MB of pixels
        assert sum(1 for _ in read_frames(path)) == 400
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
