"""The verb preview."""

from __future__ import annotations

import json

import pytest

from render_farm.media.mp4 import probe_mp4
from render_farm.storage.open import open_store
from render_farm.storage.run_state import JobRow, RunStateWriter, load_run_state
from tests.helpers.synthetic_run import write_preview, write_run


@pytest.mark.slow
def test_preview_lists_saves_and_says_what_is_missing(cli, tmp_path):
    store = open_store(tmp_path)
    write_run(tmp_path, num_jobs=9, num_films=1, still_running=True)
    film = write_preview(tmp_path, "shot-0007", num_parts=2)
    rows = {
        "shot-0000": JobRow(state="done", render_key="0" * 12, segments=3, segments_done=3),
        "shot-0006": JobRow(state="running", render_key="1" * 12, segments=3),
        "shot-0007": JobRow(state="running", render_key=film[-12:], segments=3, segments_done=2),
        "shot-0008": JobRow(state="waiting", render_key="2" * 12, segments=1),
    }
    RunStateWriter(store, "night", load_run_state(store, "night")).write(rows)
    said = cli("preview", "night", "--output", tmp_path)
    assert said.stdout.splitlines() == [
        f"shot-0000: done: {tmp_path}/shot-0000/video.mp4",
        f"shot-0007: 2 of 3 segments, 2 s: {tmp_path}/_work/{film}/preview/preview.m3u8",
    ]
    for job, num_frames in (("shot-0007", 48), ("shot-0000", 24)):
        said = cli("preview", "night", job, "--save", tmp_path / "new" / "p.mp4", "--output", tmp_path)
        assert said.stdout == f"{tmp_path}/new/p.mp4\n"
        assert probe_mp4(tmp_path / "new" / "p.mp4").num_frames == num_frames
    (found,) = json.loads(cli("preview", "night", "shot-0007", "--json", "--output", tmp_path).stdout)["films"]
    assert (found["segments_shown"], found["seconds"], found["state"]) == (2, 2.0, "running")
    for job, why in (("shot-0006", "0 segments of 3"), ("shot-0008", "in one segment"), ("other", "is known")):
        said = cli("preview", "night", job, "--output", tmp_path)
        assert (said.exit_code, said.stdout) == (14, "")
        assert why in said.stderr
    assert cli("preview", "night", "--open", "--output", tmp_path).exit_code == 2
