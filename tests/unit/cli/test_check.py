"""The verb check: films against their job.json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from render_farm.farm.run.results import Result, write_results
from render_farm.media.mp4 import Mp4Writer
from render_farm.storage.layout import RunKeys, film_key
from render_farm.storage.open import open_store
from render_farm.storage.publish import publish


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
