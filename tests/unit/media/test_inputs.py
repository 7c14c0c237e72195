"""Input images and videos: every kind of file, how they are fitted, and what is refused."""

import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import uuid
import zlib

import fsspec
import numpy as np
import pytest
from PIL import Image

from render_farm.errors import InputError, StorageError, UsageError
from render_farm.farm.run.settings import load_settings
from render_farm.media.ffmpeg import ffmpeg_path
from render_farm.media.inputs import load_image, load_video_tail, open_image, open_video_tail
from render_farm.media.limits import InputLimits
from render_farm.media.mp4 import Mp4Writer, read_frames

SIZE = {"width": 32, "height": 16}


def picture(height=16, width=32, channels=3):
    values = np.random.default_rng(3).integers(0, 256, (height, width, channels), np.uint8)
    return values[:, :, 0] if channels == 1 else values


def save(image, path, **options):
    image.save(path, **options)
    return str(path)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "a.mp4"
    with Mp4Writer(path, width=32, height=16, fps=24, quality=10) as writer:
        for index in range(30):
            writer.append(np.full((16, 32, 3), index * 8, np.uint8))
    return path


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_lossless_image_of_the_jobs_size_is_read_unchanged(tmp_path, kind):
    uri = save(Image.fromarray(picture()), tmp_path / f"a.{kind}", lossless=True)
    for fit in ("crop", "stretch", "pad"):
        assert np.array_equal(load_image(uri, **SIZE, fit=fit), picture())


def test_a_jpeg_is_read_as_pillow_reads_it(tmp_path):
    uri = save(Image.fromarray(picture()), tmp_path / "a.jpg", quality=95)
    frame = load_image(uri, **SIZE)
    assert frame.dtype == np.uint8 and frame.flags.writeable
    assert np.array_equal(frame, np.asarray(Image.open(uri)))


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_the_exif_orientation_is_applied(tmp_path, kind):
    image = Image.new("RGB", (16, 32), "black")
    image.paste("white", (0, 0, 16, 8))  # a bar on top; stored so, to be shown turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    frame = load_image(save(image, tmp_path / f"a.{kind}", exif=exif), **SIZE)
    assert frame[:, 26:].mean() > 240 and frame[:, :20].mean() < 15


def test_broken_exif_data_is_ignored(tmp_path):
    uri = save(Image.fromarray(picture()), tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01")
    assert np.array_equal(load_image(uri, **SIZE), picture())


def test_transparent_parts_show_black(tmp_path):
    pixels = picture(channels=4)
    pixels[:, :8, 3] = 0
    pixels[:, 8:, 3] = 255
    expected = pixels[:, :, :3] * (pixels[:, :, 3:] > 0)
    assert np.array_equal(load_image(save(Image.fromarray(pixels), tmp_path / "a.png"), **SIZE), expected)
    half = Image.new("RGBA", (32, 16), (200, 100, 50, 128))
    assert np.abs(load_image(save(half, tmp_path / "b.png"), **SIZE)[0, 0].astype(int) - [100, 50, 25]).max() <= 1


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.fromarray(picture()).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(load_image(save(image, tmp_path / "a.png"), **SIZE), expected)
    frame = load_image(save(image, tmp_path / "b.png", transparency=3), **SIZE)
    assert np.array_equal(frame, expected * (np.asarray(image) != 3)[:, :, None])


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_images_become_rgb(tmp_path, mode):
    image = Image.fromarray(picture(channels=1)).convert(mode)
    frame = load_image(save(image, tmp_path / "a.png"), **SIZE)
    assert np.array_equal(frame, np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    values = np.linspace(0, 65535, 32).astype(np.uint16)[None].repeat(16, 0)
    frame = load_image(save(Image.fromarray(values), tmp_path / "a.png"), **SIZE)
    assert np.abs(frame[:, :, 0] - values / 257.0).max() <= 0.5


def test_cmyk_jpegs_become_rgb(tmp_path):
    uri = save(Image.new("CMYK", (32, 16), (0, 255, 255, 0)), tmp_path / "a.jpg")
    assert np.abs(load_image(uri, **SIZE)[8, 16].astype(int) - [255, 0, 0]).max() < 8


def test_crop_keeps_the_middle_and_pad_keeps_everything(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:30] = 255
    uri = save(Image.fromarray(pixels), tmp_path / "a.png")
    assert (load_image(uri, **SIZE, fit="crop")[2:14] == 255).all()
    padded = load_image(uri, **SIZE, fit="pad")
    assert (padded[:, :8] == 0).all() and (padded[:, 24:] == 0).all() and padded[8, 8:24].min() == 255
    with pytest.raises(ValueError, match="crop, stretch, pad"):
        load_image(uri, **SIZE, fit="squeeze")


def test_stretch_gives_what_diffusers_gives(tmp_path):
    from diffusers.video_processor import VideoProcessor

    image = Image.fromarray(picture(45, 37))
    reference = VideoProcessor(vae_scale_factor=8).preprocess(image, height=16, width=32)
    ours = load_image(save(image, tmp_path / "a.png"), **SIZE, fit="stretch")
    encoded = 2.0 * (ours.astype(np.float32) / 255.0).transpose(2, 0, 1)[None] - 1.0
    assert np.array_equal(encoded, reference.numpy())


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_a_picture_one_pixel_wide_is_fitted_without_growing(tmp_path, fit):
    uri = save(Image.new("RGB", (1, 100_000), "white"), tmp_path / "a.png")
    assert load_image(uri, **SIZE, fit=fit).shape == (16, 32, 3)


# --- images that are refused -----------------------------------------------------------------------------------------


def unsafe():
    return pickle.dumps({"a": 1})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"once upon a time", "text"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (unsafe(), "a pickle"),
        (b"PK\x03\x04" + bytes(60), "PyTorch"),
        (b"GIF89a" + bytes(60), "a GIF"),
        (bytes(range(128, 256)), "not a PNG, JPEG or WebP image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "damaged PNG"),
        (b"\xff\xd8\xff" + bytes(90), "damaged JPEG"),
        (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(90), "damaged WEBP"),
        (b"", "empty"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, data, words):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        load_image(str(tmp_path / "a.png"), **SIZE)
    assert str(tmp_path / "a.png") in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_truncated_image_is_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    save(Image.fromarray(picture(64, 64)), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged"):
        load_image(str(path), **SIZE)


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    # Pixels are counted from the header: this file has hardly more than that.
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (10_000, 40_000):
        header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        (tmp_path / "bomb.png").write_bytes(data)
        with pytest.raises(InputError, match="pixels"):
            load_image(str(tmp_path / "bomb.png"), **SIZE)
    small = save(Image.fromarray(picture()), tmp_path / "a.png")
    with pytest.raises(InputError, match="32 x 16 pixels, more than the 511"):
        load_image(small, **SIZE, limits=InputLimits(max_image_pixels=511))


def test_a_huge_file_is_refused_at_once(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(InputError, match=r"2,048\.0 MiB, more than the 64\.0 MiB"):
        load_image(str(tmp_path / "a.png"), **SIZE)


# --- where inputs come from ------------------------------------------------------------------------------------------


def test_memory_and_s3_objects_are_read(s3_uri):
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    for uri in (f"memory://{uuid.uuid4().hex}/a.png", f"{s3_uri}/a.png"):
        with fsspec.open(uri, "wb") as file:
            file.write(buffer.getvalue())
        assert np.array_equal(load_image(uri, **SIZE), picture())
        assert open_image(uri).sha256 == hashlib.sha256(buffer.getvalue()).hexdigest()
        with pytest.raises(InputError, match="more than the 10 bytes"):
            load_image(uri, **SIZE, limits=InputLimits(max_image_bytes=10))
        with pytest.raises(InputError, match="no such object"):
            load_image(f"{uri}.not", **SIZE)
    with pytest.raises(InputError, match="no such object"):
        load_image("s3://no-such-bucket-of-ours/a.png", **SIZE)


def test_a_store_that_does_not_answer_is_not_the_jobs_fault(s3_uri, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="does not answer"):
        load_image(f"{s3_uri}/a.png", **SIZE)


def test_a_store_without_its_package_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"a package for it is missing: .*gcsfs"):
        load_image("gs://bucket/a.png", **SIZE)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://example.com/a.png", "use https"),
        ("ftp://example.com/a.png", "not read from ftp"),
        ("data:image/png;base64,AAAA", "hold the data itself"),
        ("zip://a.png::file:///etc/passwd", "chained"),
        ("memory://a::file:///etc/passwd", "chained"),
        ("s3:bucket/key", "must be followed by //"),
        ("", "empty"),
        ("file:///no/such/file.png", "no such file"),
        ("/tmp", "a folder"),
        ("/dev/zero", "not a regular file"),
        ("a\0b", "control character"),
        ("https://", "no bucket or host"),
        ("https://user:pw@example.com/a.png", "presigned"),
    ],
)
def test_uris_that_cannot_work_say_what_would(uri, words):
    with pytest.raises(InputError, match=words) as caught:
        load_image(uri, **SIZE)
    assert "pw" not in str(caught.value)


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="not a regular file"):
        load_image(str(tmp_path / "a.png"), **SIZE)


def test_local_files_are_read_inside_the_allowed_folders_only(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    save(Image.fromarray(picture()), inside / "a.png")
    save(Image.fromarray(picture()), outside / "b.png")
    (inside / "link.png").symlink_to(outside / "b.png")
    (tmp_path / "into").symlink_to(inside)
    limits = InputLimits(allowed_roots=(str(tmp_path / "into"),))
    load_image(f"file://{inside}/a.png", **SIZE, limits=limits)
    load_image(f"{tmp_path}/into/a.png", **SIZE, limits=limits)
    outsiders = [
        inside / "link.png",
        inside / ".." / "out" / "b.png",
        outside / "b.png",
        outside / "none.png",
        "/proc/self/root" + str(outside / "b.png"),
        tmp_path / "into-not" / "a.png",
    ]
    for uri in outsiders:
        with pytest.raises(InputError, match="not allowed"):
            load_image(str(uri), **SIZE, limits=limits)
    with pytest.raises(InputError, match="object store"):
        load_image(str(inside / "a.png"), **SIZE, limits=InputLimits(allowed_roots=()))


# --- videos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 5, 30])
def test_the_last_frames_are_exactly_the_last(video, num_frames):
    expected = np.stack(list(read_frames(video))[-num_frames:])
    opened = open_video_tail(str(video), num_frames, **SIZE)
    assert np.array_equal(opened.pixels, expected)
    assert np.array_equal(load_video_tail(str(video), num_frames, **SIZE), expected)
    assert opened.sha256 == hashlib.sha256(video.read_bytes()).hexdigest()


def test_frames_are_fitted_as_images_are(tmp_path, video):
    last = list(read_frames(video))[-1]
    uri = save(Image.fromarray(last), tmp_path / "last.png")
    for fit in ("crop", "stretch", "pad"):
        expected = load_image(uri, width=16, height=24, fit=fit)
        assert np.array_equal(load_video_tail(str(video), 2, width=16, height=24, fit=fit)[-1], expected)


def test_large_frames_are_fitted_at_once_with_the_same_result(video, monkeypatch):
    kept = load_video_tail(str(video), 3, width=16, height=16)
    monkeypatch.setattr("render_farm.media.videos._MAX_KEPT_BYTES", 0)
    assert np.array_equal(load_video_tail(str(video), 3, width=16, height=16), kept)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.gif", ()), ("a.webm", ("-c:v", "libvpx")), ("a.avi", ()), ("a.mkv", ())]
)
def test_other_containers_are_read(tmp_path, video, name, codec):
    path = tmp_path / name
    subprocess.run([ffmpeg_path(), "-v", "error", "-i", video, *codec, path], check=True, timeout=60)
    expected = np.stack(list(read_frames(path))[-4:])
    assert expected[-1].mean() > 200
    assert np.array_equal(load_video_tail(str(path), 4, **SIZE), expected)


def test_a_video_that_is_too_short_says_how_long_it_is(video):
    with pytest.raises(InputError, match="has 30 frames, 31 are needed"):
        load_video_tail(str(video), 31, **SIZE)


def test_a_truncated_video_is_refused(video):
    video.write_bytes(video.read_bytes()[:-200])
    with pytest.raises(InputError, match="video"):
        load_video_tail(str(video), 3, **SIZE)


def test_what_is_no_video_is_named(tmp_path, video):
    image = save(Image.fromarray(picture()), tmp_path / "a.png")
    with pytest.raises(InputError, match="a PNG image"):
        load_video_tail(image, 1, **SIZE)
    (tmp_path / "b.mp4").write_bytes(unsafe())
    with pytest.raises(InputError, match="a pickle"):
        load_video_tail(str(tmp_path / "b.mp4"), 1, **SIZE)


def test_a_playlist_cannot_name_other_files(tmp_path, video):
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{video}\n#EXT-X-ENDLIST\n"
    for text in (hls, f"ffconcat version 1.0\nfile {video}\n", f"ffconcat version 1.0\nfile '{video.name}'\n"):
        (tmp_path / "list.mp4").write_text(text)
        with pytest.raises(InputError, match="cannot be read as a video"):
            load_video_tail(str(tmp_path / "list.mp4"), 1, **SIZE)


def test_frames_with_too_many_pixels_and_slow_decoding_are_refused(video):
    with pytest.raises(InputError, match=r"32 x 16 pixels, more than the 511 allowed.*max_frame_pixels"):
        load_video_tail(str(video), 1, **SIZE, limits=InputLimits(max_frame_pixels=511))
    with pytest.raises(InputError, match="took longer"):
        load_video_tail(str(video), 1, **SIZE, limits=InputLimits(decode_timeout_s=0.0))


def test_no_temporary_file_is_left(tmp_path, video, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    load_video_tail(str(video), 1, **SIZE)
    with pytest.raises(InputError):
        load_video_tail(str(video), 99, **SIZE)
    assert list((tmp_path / "temporary").iterdir()) == []


# --- settings --------------------------------------------------------------------------------------------------------


def test_limits_come_from_the_settings_file_and_the_environment(tmp_path):
    file = tmp_path / "farm.toml"
    file.write_text('[inputs]\nallowed_roots = ["/data"]\nmax_redirects = 2\n')
    environment = {"RENDER_FARM_INPUT_PROTOCOLS": "s3, https", "RENDER_FARM_INPUT_FETCH_TIMEOUT_S": "9"}
    inputs = load_settings(file=str(file), environment=environment).inputs
    assert inputs == InputLimits(
        allowed_roots=("/data",), max_redirects=2, protocols=("s3", "https"), fetch_timeout_s=9.0
    )
    for text, words in (
        ("inputs = 3", "inputs must be a table"),
        ("[inputs]\nroots = []", "unknown setting 'inputs.roots'; the nearest is inputs.allowed_roots"),
        ("[inputs]\nallowed_roots = 3", "inputs.allowed_roots must be a list of texts, got 3"),
        ("[inputs]\nmax_redirects = 'many'", "inputs.max_redirects must be a whole number, at least 0, got 'many'"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=words):
            load_settings(file=str(file), environment={})
