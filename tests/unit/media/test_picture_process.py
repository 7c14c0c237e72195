"""Pictures are decoded apart, within limits of memory and time."""

from __future__ import annotations

import io
import os
import resource

import numpy as np
import pytest
from PIL import Image

from render_farm.errors import InputError, MediaError
from render_farm.media import picture_process
from render_farm.media.images import decode_image
from render_farm.media.inputs import open_image
from render_farm.media.limits import InputLimits
from render_farm.media.picture_process import end_children
from tests.helpers.media_files import adobe_rgb_profile, png_header_of


@pytest.fixture(autouse=True)
def fresh_children():
    end_children()
    yield
    end_children()


def test_the_pixels_are_those_of_the_process_itself(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    opened = open_image(str(tmp_path / "a.png"))
    assert np.array_equal(opened.pixels, pixels) and opened.notes == ()
    assert open_image(str(tmp_path / "a.png"), keep_pixels=False).sha256 == opened.sha256


@pytest.mark.slow
def test_sixteen_bit_grey_of_the_largest_size_stays_out_of_this_process(tmp_path):
    side = 9_400  # 88 Mpixel, just below the limit
    (tmp_path / "a.png").write_bytes(png_header_of(side, side, depth=16, data=bytes((1 + 2 * side) * side)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert open_image(str(tmp_path / "a.png"), keep_pixels=False).pixels.size == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{"format": "PNG", "compress_level": 1}, {"format": "WEBP", "lossless": True}])
def test_the_largest_picture_with_transparency_and_a_profile_is_read(tmp_path, kind):
    image = Image.new("RGBA", (9_450, 9_450), (60, 200, 90, 128))  # 89.3 Mpixel, just below the limit
    image.save(tmp_path / "a", icc_profile=adobe_rgb_profile(), method=0, quality=0, **kind)
    assert open_image(str(tmp_path / "a"), keep_pixels=False).size == image.size


@pytest.mark.slow
def test_a_picture_that_needs_more_memory_than_it_may_is_refused_and_the_next_one_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_process, "_BYTES_PER_PIXEL", 0)
    monkeypatch.setattr(picture_process, "_FIXED_BYTES", 32 << 20)
    Image.new("RGB", (5000, 5000)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"needs more memory.*max_image_pixels"):
        open_image(str(tmp_path / "a.png"))
    assert open_image(str(tmp_path / "small.png")).pixels.shape == (8, 8, 3)


@pytest.mark.slow
def test_a_picture_that_takes_too_long_is_given_up_and_the_next_one_is_read(tmp_path):
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (3000, 3000, 3), dtype=np.uint8))
    image.save(tmp_path / "slow.jpg", progressive=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    open_image(str(tmp_path / "small.png"))
    hasty = InputLimits(image_timeout_s=0.01)
    with pytest.raises(InputError, match=r"took longer than 0\.01 s.*image_timeout_s"):
        open_image(str(tmp_path / "slow.jpg"), hasty)
    assert open_image(str(tmp_path / "small.png")).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize("side", [20_000, 40_000])
def test_too_many_pixels_are_named_with_the_setting(tmp_path, side):
    (tmp_path / "a.png").write_bytes(png_header_of(side, side))
    with pytest.raises(InputError, match=f"{side} x {side} pixels, more than the 89,478,485.*max_image_pixels"):
        open_image(str(tmp_path / "a.png"))


@pytest.mark.slow
def test_the_limit_of_pixels_can_be_raised_above_pillows(tmp_path):
    side = 13_500  # 182 Mpixel, more than twice Pillow's own threshold
    (tmp_path / "a.png").write_bytes(png_header_of(side, side, depth=1, data=bytes((1 + (side + 7) // 8) * side)))
    limits = InputLimits(max_image_pixels=200_000_000)
    assert open_image(str(tmp_path / "a.png"), limits, keep_pixels=False).sha256


def test_a_library_in_the_working_directory_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "PIL.py").write_text("raise SystemExit('shadowed')")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}.{os.pathsep}")
    end_children()
    assert (open_image(str(tmp_path / "a.png")).pixels[0, 0] == (255, 0, 0)).all()


def test_a_child_that_does_not_start_is_not_the_pictures_fault(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(picture_process.sys, "executable", "/bin/false")
    with pytest.raises(MediaError, match="does not start"):
        open_image(str(tmp_path / "a.png"))


# --- colours ---


def test_adobe_rgb_is_converted_and_said(tmp_path):
    image = Image.new("RGB", (8, 8), (60, 200, 90))
    image.save(tmp_path / "a.png", icc_profile=adobe_rgb_profile())
    opened = open_image(str(tmp_path / "a.png"))
    # The green of Adobe RGB is stronger than sRGB's: in sRGB its red falls and its green grows.
    red, green, _ = opened.pixels[0, 0].astype(int)
    assert red < 30 and green > 200
    assert opened.notes == ("its colours are converted from 'Adobe RGB (1998)' to sRGB",)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_survives_the_conversion(mode):
    image = Image.new("RGBA", (8, 8), (60, 200, 90, 0)).convert(mode)
    data = io.BytesIO()
    image.save(data, "PNG", icc_profile=adobe_rgb_profile())
    decoded, _ = decode_image(data.getvalue(), uri="a.png", limits=InputLimits())
    assert np.asarray(decoded).max() == 0


def test_a_broken_profile_is_said_and_ignored(tmp_path):
    Image.new("RGB", (8, 8), (60, 200, 90)).save(tmp_path / "a.png", icc_profile=b"no profile at all" * 20)
    opened = open_image(str(tmp_path / "a.png"))
    assert (opened.pixels[0, 0] == (60, 200, 90)).all() and "taken for sRGB" in opened.notes[0]


def test_srgb_is_not_touched(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    opened = open_image(str(tmp_path / "a.png"))
    assert np.array_equal(opened.pixels, pixels) and opened.notes == ()
