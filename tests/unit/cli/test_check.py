"""The verb check: films against their job.json."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from render_farm.farm.run.results import Result, write_results
from render_farm.media import signing
from render_farm.media.mp4 import Mp4Writer
from render_farm.media.poster import write_poster
from render_farm.media.provenance import Marker, xmp_packet
from render_farm.media.provenance_settings import ProvenanceSettings
from render_farm.media.signing import read_keys, sign
from render_farm.storage.layout import RunKeys, film_key
from render_farm.storage.open import open_store
from render_farm.storage.publish import publish
from tests.helpers.signing_keys import write_signing_keys

MARKER = Marker(job_id="m", model="tiny", model_version="0a1b" * 16, software="render_farm 1.2")


@pytest.fixture
def output(tmp_path):
    """Two films of run r."""
    with Mp4Writer(tmp_path / "v.mp4", width=32, height=32, fps=8) as writer:
        for level in range(5):
            writer.append(np.full((32, 32, 3), level * 50, np.uint8))
    (tmp_path / "p.jpg").write_bytes(b"poster")
    store = open_store(tmp_path / "out")
    files = {"video.mp4": tmp_path / "v.mp4", "poster.jpg": tmp_path / "p.jpg"}
    rows = []
    for name in ("a", "b"):
        published = publish(store, film_key(name, "0" * 12), "x", files, {"num_frames": 5, "run_id": "r"})
        rows.append(Result(job_id=name, state="done", sha256=published.job["sha256"]))
    store.write_bytes(RunKeys(run_id="r").run, b'{"manifest": "m.parquet"}')
    write_results(store, "r", [*rows, Result(job_id="c", state="failed", message="bad")])
    return tmp_path / "out"


@pytest.mark.parametrize("what", ["run", "uri", "output", "default", "file", "folder"])
def test_films_that_are_right(cli, output, monkeypatch, what):
    targets = {
        "run": ["r", "-o", output],
        "uri": [output / "_runs" / "r"],
        "output": [output],
        "default": ["-o", output],
        "file": [output / "a" / "video.mp4"],
        "folder": [output / "a"],
    }
    said = cli("check", *targets[what], "--decode")
    number = 1 if what in ("file", "folder") else 2
    assert said.exit_code == 0, said.output
    assert f"{number} of {number} film" in said.stdout


def test_a_video_that_was_cut_short_is_found(cli, output):
    video = output / "a" / "video.mp4"
    video.write_bytes(video.read_bytes()[:300])
    said = cli("check", "r", "-o", output)
    assert said.exit_code == 11
    assert "a/video.mp4: has 300 bytes where job.json says" in said.stdout
    assert cli("check", video).exit_code == 10


def test_a_video_with_a_flipped_bit_is_found(cli, output):
    video = output / "a" / "video.mp4"
    data = bytearray(video.read_bytes())
    data[-1] ^= 1
    video.write_bytes(bytes(data))
    found = json.loads(cli("check", output, "--json").stdout)
    assert (found["num_films"], found["num_wrong"], found["ok"]) == (2, 1, False)
    [wrong] = [film for film in found["films"] if film["problems"]]
    assert "its sha256 is not the one in job.json" in wrong["problems"][0]


def test_decoding_finds_what_checksums_cannot(cli, output, tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"this is no video")
    files = {"video.mp4": tmp_path / "no.mp4", "poster.jpg": tmp_path / "p.jpg"}
    publish(open_store(output), film_key("d", "0" * 12), "x", files, {"num_frames": 5})
    assert cli("check", output / "d").exit_code == 0
    said = cli("check", output / "d", "--decode")
    assert (said.exit_code, "cannot be decoded" in said.stdout) == (10, True)


def test_a_film_that_another_run_replaced_is_not_this_runs(cli, output, tmp_path):
    (tmp_path / "v2.mp4").write_bytes(b"another film")
    files = {"video.mp4": tmp_path / "v2.mp4", "poster.jpg": tmp_path / "p.jpg"}
    publish(open_store(output), film_key("a", "1" * 12), "y", files, {"run_id": "other"})
    said = cli("check", "r", "-o", output)
    assert (said.exit_code, "run other replaced it" in said.stdout) == (11, True)


def test_nothing_to_check_is_14(cli, output, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "video.mp4").write_bytes(b"x")
    for target in ([tmp_path / "empty"], [tmp_path / "x" / "video.mp4"], ["none", "-o", output]):
        assert cli("check", *target).exit_code == 14, target


def publish_marked(output, tmp_path, marker, *, signer=None, keys=None):
    """Film `m`, whose job.json says that it is marked."""
    with Mp4Writer(tmp_path / "m.mp4", width=32, height=32, fps=8, xmp=xmp_packet(marker)) as writer:
        writer.append(np.zeros((32, 32, 3), np.uint8))
    write_poster(np.zeros((32, 32, 3), np.uint8), tmp_path / "m.jpg", xmp=xmp_packet(marker))
    files = {"video.mp4": tmp_path / "m.mp4", "poster.jpg": tmp_path / "m.jpg"}
    if keys is not None:
        for path in files.values():
            sign(path, marker, keys)
    job = {"provenance": {"marked": True, "signed_by": signer}}
    publish(open_store(output), film_key("m", "0" * 12), "x", files, job)
    return output / "m" / "video.mp4"


def test_a_film_says_who_made_it(cli, output, tmp_path):
    video = publish_marked(output, tmp_path, MARKER)
    said = cli("check", video)
    assert said.exit_code == 0, said.output
    assert "video.mp4: trainedAlgorithmicMedia, job m, model tiny 0a1b0a1b0a1b, render_farm 1.2" in said.stdout
    found = json.loads(cli("check", video, "--json").stdout)
    assert [(file["name"], file["marker"]["job_id"], file["signed_by"]) for file in found["films"][0]["files"]] == [
        ("poster.jpg", "m", None),
        ("video.mp4", "m", None),
    ]


def test_a_marker_of_another_job_is_found(cli, output, tmp_path):
    publish_marked(output, tmp_path, replace(MARKER, job_id="other"))
    said = cli("check", output / "m")
    assert (said.exit_code, "its marker is missing, or another job's" in said.stdout) == (10, True)


def test_a_film_that_left_its_folder_still_says_who_made_it(cli, output, tmp_path):
    (tmp_path / "mail").mkdir()
    copy = publish_marked(output, tmp_path, MARKER).rename(tmp_path / "mail" / "holiday.mp4")
    said = cli("check", copy)
    assert said.exit_code == 0, said.output
    assert said.stdout.strip() == (
        "holiday.mp4: trainedAlgorithmicMedia, job m, model tiny 0a1b0a1b0a1b, render_farm 1.2"
    )


@pytest.mark.slow
def test_signatures_are_read_and_checked(cli, output, tmp_path):
    pytest.importorskip("c2pa", reason="it comes with the extra `provenance`")
    chain, key = write_signing_keys(tmp_path)
    keys = read_keys(ProvenanceSettings(certificate=str(chain), private_key=str(key)))
    video = publish_marked(output, tmp_path, MARKER, signer="Example Signer", keys=keys)
    said = cli("check", video)
    assert said.exit_code == 0, said.output
    assert "video.mp4: signed by Example Signer" in said.stdout
    (tmp_path / "mail").mkdir()
    data = bytearray(video.read_bytes())
    data[data.index(b"mdat") + 40] ^= 1
    (tmp_path / "mail" / "copy.mp4").write_bytes(data)
    said = cli("check", tmp_path / "mail" / "copy.mp4", "--json")
    assert (said.exit_code, json.loads(said.stdout)["num_wrong"]) == (10, 1)
    video.write_bytes(data)
    assert "its sha256 is not the one in job.json" in cli("check", video).stdout


def test_a_signature_that_was_taken_out_is_missed(cli, output, tmp_path):
    pytest.importorskip("c2pa", reason="it comes with the extra `provenance`")
    publish_marked(output, tmp_path, MARKER, signer="Example Signer")
    said = cli("check", output / "m")
    assert (said.exit_code, "the signature of Example Signer is missing" in said.stdout) == (10, True)


def test_without_the_package_the_signature_is_said_to_be_unchecked(cli, output, tmp_path, monkeypatch):
    monkeypatch.setattr(signing.importlib.util, "find_spec", lambda name: None)
    said = cli("check", publish_marked(output, tmp_path, MARKER, signer="Example Signer"))
    assert said.exit_code == 0, said.output
    assert "its signature is not checked (pip install 'render_farm[provenance]')" in said.stderr
