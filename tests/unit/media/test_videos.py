"""Videos of the kinds that people bring come out as a film can use them, and that is said."""

from __future__ import annotations

import numpy as np
import pytest

from render_farm.errors import InputError
from render_farm.media.inputs import open_video_tail
from render_farm.media.kinds import kind_of
from render_farm.media.mp4 import read_frames
from render_farm.media.whole_video import read_video
from tests.helpers.media_files import hdr_video, make_video

SIZE = {"width": 64, "height": 32}


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_tone_mapped_to_ordinary_brightness(tmp_path, transfer):
    opened = open_video_tail(str(hdr_video(tmp_path / "a.mp4", transfer=transfer)), 3, **SIZE)
    # Diffuse white stays light, and grey stays grey. Taken as SDR it would be (148, 148, 148) or (191, 191, 191).
    assert 195 < opened.pixels.mean() < 250 and np.ptp(opened.pixels) < 8
    assert any("HDR" in note for note in opened.notes)


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    path = make_video(tmp_path / "a.mp4", "-vf", "setsar=2", source="testsrc2=s=32x32:r=24:d=1")
    opened = open_video_tail(str(path), 1, width=64, height=32, fit="crop")
    plain = make_video(tmp_path / "b.mp4", source="testsrc2=s=32x32:r=24:d=1")
    wide, cropped = (open_video_tail(str(plain), 1, width=64, height=32, fit=fit).pixels for fit in ("stretch", "crop"))
    assert np.abs(opened.pixels.astype(int) - wide).mean() < np.abs(opened.pixels.astype(int) - cropped).mean() / 3
    assert opened.notes == ("its pixels are 2:1: it is stretched to square ones",)


def test_a_video_of_another_rate_plays_at_its_own_speed(tmp_path):
    path = make_video(tmp_path / "a.mp4", source="testsrc2=s=64x32:r=12:d=2")
    frames = list(read_video(str(path), **SIZE, fps=24))
    assert len(frames) == 48
    opened = open_video_tail(str(path), 9, **SIZE, fps=24)
    assert np.array_equal(opened.pixels, np.stack(frames[-9:]))
    assert opened.notes == ("its 12 frames a second are resampled to the film's 24",)


@pytest.mark.parametrize(("rate", "fps"), [("24", 24), ("24000/1001", 24), ("24", 24000 / 1001)])
def test_a_video_of_the_films_rate_keeps_every_frame(tmp_path, rate, fps):
    path = make_video(tmp_path / "a.mp4", source=f"testsrc2=s=64x32:r={rate}:d=1")
    opened = open_video_tail(str(path), 20, **SIZE, fps=fps)
    assert np.array_equal(opened.pixels, np.stack(list(read_frames(path))[-20:])) and opened.notes == ()


def test_an_interlaced_video_has_no_combs(tmp_path):
    moving = "nullsrc=s=64x32:r=48:d=1,geq=lum='255*lt(mod(X-T*384,32),8)':cb=128:cr=128"
    path = make_video(tmp_path / "a.mp4", "-vf", "interlace", "-flags", "+ildct+ilme", source=moving)
    opened = open_video_tail(str(path), 4, **SIZE)
    raw = np.stack(list(read_frames(path)))[-4:]
    combs, woven = (np.abs(np.diff(frames.astype(int), axis=1)).max() for frames in (opened.pixels, raw))
    assert combs < woven / 2 and "interlaced" in opened.notes[0]


def test_sound_alone_is_named(tmp_path):
    path = make_video(tmp_path / "a.mp4", "-c:a", "aac", source="sine=d=1")
    with pytest.raises(InputError, match="has sound and no pictures"):
        open_video_tail(str(path), 1, **SIZE)


def test_a_file_that_lost_its_index_is_said_to_be_cut_short(tmp_path):
    path = make_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cut short"):
        open_video_tail(str(path), 1, **SIZE)


@pytest.mark.parametrize("brand", [b"heic", b"hevc", b"mif1", b"msf1", b"avif"])
def test_still_pictures_in_the_boxes_of_a_video_are_named(brand):
    assert kind_of(b"\0\0\0\x18ftyp" + brand + bytes(12)) == "an AVIF or HEIC image"
