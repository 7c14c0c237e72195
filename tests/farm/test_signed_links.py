"""A run in a private bucket on a real S3 server: its films by signed links, and what can be watched so far."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.errors import UsageError
from render_farm.media.mp4 import probe_mp4
from render_farm.report.writer import ReportWriter
from render_farm.storage.open import open_store
from render_farm.storage.run_state import JobRow, RunStateWriter, load_run_state
from tests.helpers.synthetic_run import write_preview, write_run


def get(url: str) -> tuple[int, str, bytes]:
    """Without any credentials."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, "", b""


@pytest.fixture
def night(s3_uri, tmp_path):
    """A run in a bucket: two films are done, one can be watched so far."""
    write_run(tmp_path, num_jobs=4, num_films=2, still_running=True)
    write_preview(tmp_path, "shot-0003", num_parts=1)
    store = open_store(s3_uri)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            store.put_file(path, path.relative_to(tmp_path).as_posix())
    return store


def test_a_page_with_signed_links_plays_where_the_bucket_is_private(night, s3_env, tmp_path):
    plain = f"{s3_env.endpoint}/{night.root_uri.removeprefix('s3://')}/shot-0000/video.mp4"
    assert get(plain)[0] == 403
    said = CliRunner().invoke(app, ["report", "night", "--output", night.root_uri, "--presign", "1"])
    assert said.exit_code == 0, said.stderr
    status, kind, page = get(said.stdout.strip())
    assert (status, kind) == (200, "text/html")
    data = json.loads(page.partition(b'id="data">')[2].partition(b"</script>")[0])
    media = {int(index): names for index, names in data["media"].items()}
    assert sorted(media) == [0, 1, 3]
    for index, name, kind in (
        (0, "video.mp4", "video/mp4"),
        (1, "poster.jpg", "image/jpeg"),
        (3, "preview.mp4", "video/mp4"),
    ):
        status, served, body = get(media[index][name])
        assert (status, served) == (200, kind)
        assert len(body) > 500
    assert get(media[0]["video.mp4"].replace("X-Amz-Signature=", "X-Amz-Other="))[0] == 403
    assert f"media-src 'self' file: https: {s3_env.endpoint}".encode() in page
    assert "X-Amz-Expires=3600" in media[0]["video.mp4"]


def test_links_are_made_once_for_page_after_page(night):
    writer = ReportWriter(night, "night", links_for_s=600)
    assert writer.data()["media"] == writer.data()["media"]
    with pytest.raises(UsageError, match="7 days"):
        night.presign(["a"], 8 * 86_400)
    assert "media" not in ReportWriter(night, "night").data()


def test_a_preview_in_a_bucket_is_saved_as_a_file(night, tmp_path):
    [film] = night.list_folders("_work")
    row = JobRow(state="running", render_key=film[-12:], segments=3, segments_done=1)
    RunStateWriter(night, "night", load_run_state(night, "night")).write({"shot-0003": row})
    command = ["preview", "night", "shot-0003", "--output", night.root_uri]
    said = CliRunner().invoke(app, command)
    assert said.stdout == f"shot-0003: 1 of 3 segments, 1 s: {night.root_uri}/_work/{film}/preview/preview.m3u8\n"
    said = CliRunner().invoke(app, [*command, "--save", str(tmp_path / "p.mp4")])
    assert said.exit_code == 0, said.stderr
    assert probe_mp4(tmp_path / "p.mp4").num_frames == 24
