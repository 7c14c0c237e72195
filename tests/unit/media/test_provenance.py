"""The marker in films and pictures."""

from __future__ import annotations

import io
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

from render_farm import RenderJob
from render_farm.media.ffmpeg import ffmpeg_path
from render_farm.media.mp4 import Mp4Writer, probe_mp4, read_frames
from render_farm.media.poster import write_poster
from render_farm.media.preview import contact_sheet, encode_part
from render_farm.media.provenance import TRAINED_MODEL, Marker, marker_of, read_marker, xmp_box, xmp_packet
from render_farm.planning import plan_film
from render_farm.planning.model_spec import spec_of_preset
from tests.helpers import films

MARKER = Marker(job_id="night-7", model="tiny", model_version="0a1b", software="render_farm 1.2")
FRAMES = [np.full((32, 48, 3), level * 40, np.uint8) for level in range(5)]


def film(path, xmp):
    with Mp4Writer(path, width=48, height=32, fps=8, xmp=xmp) as writer:
        for frame in FRAMES:
            writer.append(frame)
    return path


def test_a_film_carries_its_marker_and_is_the_same_film(tmp_path):
    bare, marked = film(tmp_path / "bare.mp4", b""), film(tmp_path / "marked.mp4", xmp_packet(MARKER))
    assert read_marker(marked) == MARKER and read_marker(bare) is None
    assert marked.read_bytes() == bare.read_bytes() + xmp_box(xmp_packet(MARKER)), "nothing is encoded again"
    assert probe_mp4(marked) == probe_mp4(bare)
    assert all(np.array_equal(*pair) for pair in zip(read_frames(marked), read_frames(bare), strict=True))


def test_equal_markers_make_equal_files(tmp_path):
    first, second = (film(tmp_path / f"{number}.mp4", xmp_packet(MARKER)) for number in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_the_packet_is_where_readers_of_xmp_look_for_it(tmp_path):
    """A `uuid` box of the XMP Specification, and IPTC's name of the source type."""
    data = film(tmp_path / "a.mp4", xmp_packet(MARKER)).read_bytes()
    box = data.index(bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")) - 8
    size, kind = struct.unpack_from(">I4s", data, box)
    assert (kind, box + size) == (b"uuid", len(data))
    assert f'Iptc4xmpExt:DigitalSourceType="{TRAINED_MODEL}"'.encode() in data[box:]


def test_pictures_carry_it_too(tmp_path):
    packet = xmp_packet(MARKER)
    write_poster(FRAMES[2], tmp_path / "a.jpg", xmp=packet)
    write_poster(FRAMES[2], tmp_path / "bare.jpg")
    assert read_marker(tmp_path / "a.jpg") == MARKER and read_marker(tmp_path / "bare.jpg") is None
    pixels = [np.asarray(Image.open(tmp_path / name)) for name in ("a.jpg", "bare.jpg")]
    assert np.array_equal(*pixels)
    assert Image.open(io.BytesIO(contact_sheet(FRAMES, xmp=packet))).info["xmp"] == packet


def test_a_preview_carries_it_where_its_parts_are_joined(tmp_path):
    packet = xmp_packet(MARKER)
    parts = [encode_part(FRAMES, fps=8, first_frame=5 * n, number=n, xmp=packet) for n in range(2)]
    assert parts[0].init == parts[1].init
    joined = tmp_path / "preview.mp4"
    joined.write_bytes(parts[0].init + b"".join(part.media for part in parts))
    assert read_marker(joined) == MARKER
    assert probe_mp4(joined).num_frames == 10


def test_ids_and_names_with_any_characters_come_back(tmp_path):
    marker = Marker(job_id="<a&\"'>", model="modèle 猫\u200b", model_version="", software="x \t y")
    write_poster(FRAMES[0], tmp_path / "a.jpg", xmp=xmp_packet(marker))
    assert read_marker(tmp_path / "a.jpg") == marker


def test_a_film_names_its_model_without_its_place():
    job = films.job("a")
    names = {
        "tiny": "tiny",
        "Skywork/SkyReels-V2": "SkyReels-V2",
        "s3://key:secret@bucket/models/mine/": "mine",
        "https://host/m/own?X-Amz-Signature=abc": "own",
    }
    for name, shown in names.items():
        spec = spec_of_preset("tiny", fingerprint="f00")
        marker = marker_of(plan_film(job, type(spec)(**{**vars(spec), "name": name})))
        assert (marker.model, marker.job_id, marker.model_version) == (shown, "a", "f00")


@pytest.mark.parametrize(
    ("inputs", "source"),
    [
        ({}, "trainedAlgorithmicMedia"),
        ({"image": "a.png"}, "trainedAlgorithmicMedia"),
        ({"video": "a.mp4"}, "compositeWithTrainedAlgorithmicMedia"),
    ],
)
def test_a_film_that_extends_a_video_says_so(inputs, source):
    """https://cv.iptc.org/newscodes/digitalsourcetype: the second is for media that a model has added to."""
    spec = spec_of_preset("tiny", fingerprint="f00")
    marker = marker_of(
        plan_film(RenderJob(job_id="a", prompt="a circle", num_frames=33, overlap_history=17, **inputs), spec)
    )
    assert marker.source_type == f"http://cv.iptc.org/newscodes/digitalsourcetype/{source}"


@pytest.mark.parametrize(
    "damage", ["empty", "text", "cut", "huge", "no-rdf", "entities", "not-utf8", "size-0", "size-1"]
)
def test_what_holds_no_marker_has_none(tmp_path, damage):
    path, packet = tmp_path / "a.mp4", xmp_packet(MARKER)
    start = b"\0\0\0\x08ftyp"
    content = {
        "empty": b"",
        "text": b"no film",
        "cut": start + xmp_box(packet)[:-40],
        "huge": start + xmp_box(packet + b" " * (1 << 20)),
        "no-rdf": start + xmp_box(b"<x/>"),
        "entities": start + xmp_box(b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + packet[packet.index(b"<x:") :]),
        "not-utf8": start + xmp_box(packet.replace(b"night", b"\xff\xff\xff\xff\xff")),
        "size-0": b"\0\0\0\0ftyp" + xmp_box(packet),
        "size-1": b"\0\0\0\x01ftyp" + bytes(8) + xmp_box(packet),
    }
    path.write_bytes(content[damage])
    assert read_marker(path) is None


def test_boxes_with_long_sizes_are_passed_over(tmp_path):
    long_box = struct.pack(">I4sQ", 1, b"free", 16 + 8) + bytes(8)
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x08ftyp" + long_box + xmp_box(xmp_packet(MARKER)))
    assert read_marker(tmp_path / "a.mp4") == MARKER


def test_ffmpeg_reads_the_packet(tmp_path):
    path = film(tmp_path / "a.mp4", xmp_packet(MARKER))
    said = subprocess.run(
        [ffmpeg_path(), "-v", "error", "-export_xmp", "1", "-i", path, "-f", "ffmetadata", "-"],
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout
    assert TRAINED_MODEL.encode() in said.replace(b"\\", b"")
