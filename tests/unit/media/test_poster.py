"""Posters and film strips."""

import numpy as np
import pytest
from PIL import Image

from render_farm.errors import StorageError
from render_farm.media.mp4 import Mp4Writer
from render_farm.media.poster import evenly_spaced_frames, film_strip, write_poster


def flat(value, height=16, width=32):
    return np.full((height, width, 3), value, np.uint8)


def test_a_poster_is_a_jpeg_of_the_frame(tmp_path):
    write_poster(flat(90, 64, 96), tmp_path / "new" / "poster.jpg")
    with Image.open(tmp_path / "new" / "poster.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (96, 64))
        assert np.abs(np.asarray(image).astype(int) - 90).max() <= 2
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["poster.jpg"]


def test_a_poster_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "poster.jpg").mkdir()
    with pytest.raises(StorageError, match=r"poster\.jpg"):
        write_poster(flat(1), tmp_path / "poster.jpg")
    assert [entry.name for entry in tmp_path.iterdir()] == ["poster.jpg"]


def test_evenly_spaced_frames_hold_the_first_and_the_last(tmp_path):
    with Mp4Writer(tmp_path / "a.mp4", width=32, height=16, fps=24, quality=10) as writer:
        for index in range(41):
            writer.append(flat(index * 6))
    values = [int(frame.mean()) // 6 for frame in evenly_spaced_frames(tmp_path / "a.mp4", 5)]
    assert np.abs(np.array(values) - [0, 10, 20, 30, 40]).max() <= 1
    assert len(evenly_spaced_frames(tmp_path / "a.mp4", 100)) == 41
    assert len(evenly_spaced_frames(tmp_path / "a.mp4", 1)) == 1


def test_a_film_strip_is_a_row_or_a_sheet_of_enlarged_tiles(tmp_path):
    frames = [flat(value) for value in (0, 50, 100, 150, 200)]
    film_strip(frames, tmp_path / "row.png", tile_width=64, gap=4)
    with Image.open(tmp_path / "row.png") as image:
        assert image.size == (5 * 68 + 4, 32 + 8)
        assert [image.getpixel((4 + 68 * n + 32, 20))[0] for n in range(5)] == [0, 50, 100, 150, 200]
    film_strip(frames, tmp_path / "sheet.png", tile_width=50, gap=0, num_columns=2)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (100, 3 * 25)


def test_an_enlarged_tile_keeps_its_pixels_crisp(tmp_path):
    frame = flat(0)
    frame[5, 7] = 255
    film_strip([frame], tmp_path / "a.png", tile_width=320, gap=0)
    with Image.open(tmp_path / "a.png") as image:
        assert set(np.unique(np.asarray(image))) == {0, 255}


def test_wrong_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        film_strip([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="one size"):
        film_strip([flat(1), flat(1, 32, 32)], tmp_path / "a.png")
    with pytest.raises(ValueError, match="uint8"):
        write_poster(np.zeros((16, 16, 3), np.float32), tmp_path / "a.jpg")
