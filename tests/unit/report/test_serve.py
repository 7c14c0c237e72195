"""The server of the report, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from render_farm.observability.snapshot import RunSnapshot, dump_live
from render_farm.report.serve import ReportServer, _range
from render_farm.storage.layout import RunKeys
from render_farm.storage.open import open_store
from tests.helpers.synthetic_run import START_S, write_preview, write_run

NOT_SERVED = (
    "/_runs/none/report.html",
    "/_runs/night/../night/report.html",
    "/_runs/night/run.json",
    "/shot-0000/job.json",
    "/nobody/video.mp4",
    "/%2e%2e/video.mp4",
    "/..%2f..%2fetc/poster.jpg",
)


@contextmanager
def served(folder, **options):
    server = ReportServer(open_store(folder), **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_the_server_gives_pages_and_ranges_and_nothing_else(tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=1)
    write_run(tmp_path, run_id="before", num_jobs=3, num_films=0, started_s=START_S - 86_400)
    video = (tmp_path / "shot-0000" / "video.mp4").read_bytes()
    with served(tmp_path) as server:
        listed = ask(server, "/")[2].decode()
        assert listed.index("/night/report.html") < listed.index("/before/report.html")  # the last one first
        assert '<td>3</td><td><span class="s-done">3 done</span></td><td>2026-11-20 22:00:00</td>' in listed
        assert "<td>jobs/nightly.parquet</td>" in listed
        status, headers, body = ask(server, "/_runs/night/report.html")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b'"live":true' in body
        assert json.loads(ask(server, "/_runs/night/report.json")[2])["run"]["id"] == "night"
        status, headers, body = ask(server, "/shot-0000/video.mp4")
        assert (status, body, headers["Accept-Ranges"]) == (200, video, "bytes")
        status, headers, body = ask(server, "/shot-0000/video.mp4", Range="bytes=100-199")
        assert (status, body) == (206, video[100:200])
        assert headers["Content-Range"] == f"bytes 100-199/{len(video)}"
        assert ask(server, "/shot-0000/video.mp4", Range="bytes=-10")[2] == video[-10:]
        assert ask(server, "/shot-0000/video.mp4", Range=f"bytes={len(video)}-")[0] == 416
        assert ask(server, "/shot-0000/video.mp4", Range=f"bytes={'9' * 5000}-")[0] == 416
        assert ask(server, "/shot-0000/video.mp4", Range="lines=1-2")[::2] == (200, video)
        status, headers, body = ask(server, "/shot-0000/poster.jpg", method="HEAD")
        assert (status, body) == (200, b"")
        for path in NOT_SERVED:
            assert ask(server, path)[0] == 404, path
        assert ask(server, "/", method="POST")[0] == 501
        assert ask(server, "/", Host="evil.example")[0] == 403


@pytest.mark.slow
def test_the_server_gives_what_can_be_watched_so_far(tmp_path):
    write_run(tmp_path, num_jobs=9, num_films=0, still_running=True)
    folder = f"/_work/{write_preview(tmp_path, 'shot-0007', num_parts=2)}/preview"
    with served(tmp_path) as server:
        status, headers, body = ask(server, f"{folder}/preview.m3u8", Range="bytes=0-9")
        assert (status, headers["Content-Type"]) == (200, "application/vnd.apple.mpegurl")
        assert body.decode().splitlines()[-1] == "0001.m4s"
        status, headers, body = ask(server, f"{folder}/0001.m4s", Range="bytes=4-7")
        assert (status, body, headers["Content-Type"]) == (206, b"moof", "video/iso.segment")
        assert ask(server, f"{folder}/preview.mp4")[1]["Cache-Control"] == "no-store"
        for name in ("0002.m4s", "other.mp4", "../state/00000001.json", "..%2fstate%2f00000001.json"):
            assert ask(server, f"{folder}/{name}")[0] == 404, name
        assert ask(server, "/_work/no-film/preview/preview.m3u8")[0] == 404
        live = RunSnapshot(
            time_s=time.time(), state="running", eta_s=90.0, steps_per_s=2.5, num_workers=4, workers_busy=3
        )
        open_store(tmp_path).write_bytes(RunKeys(run_id="night").live, dump_live(live))
        data = json.loads(ask(server, "/_runs/night/report.json")[2])
        assert (data["run"]["now"]["eta"], data["run"]["now"]["busy"]) == (90.0, 3)
        assert data["previews"] == {"7": [folder.split("/")[2], 2, 2.0]}


def test_a_server_for_others_wants_its_token(tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    with served(tmp_path, host="0.0.0.0") as server:
        assert server.token in server.url
        assert ask(server, "/")[0] == 401
        assert ask(server, "/?token=wrong")[0] == 401
        assert ask(server, "/", Cookie="render_farm_token=wrong")[0] == 401
        status, headers, _ = ask(server, "/" + "?" + urlsplit(server.url).query)
        assert (status, headers["Location"]) == (303, "/")
        assert "HttpOnly" in headers["Set-Cookie"]
        assert ask(server, "/", Cookie=headers["Set-Cookie"].partition(";")[0])[0] == 200
        assert ask(server, "/", Authorization=f"Bearer {server.token}")[0] == 200


@pytest.mark.parametrize(
    ("header", "span"),
    [(None, (0, 10)), ("bytes=0-", (0, 10)), ("bytes=2-3", (2, 4)), ("bytes=8-99", (8, 10)), ("bytes=-3", (7, 10)),
     ("bytes=10-", None), ("bytes=5-2", None), ("bytes=-0", None), ("lines=1-2", (0, 10)), ("bytes=-", (0, 10)),
     (f"bytes={'9' * 5000}-", None), (f"bytes=2-{'9' * 5000}", (2, 10)), (f"bytes=-{'9' * 5000}", (0, 10)),
     (f"bytes={'0' * 5000}2-3", (2, 4)), (f"bytes=-{'0' * 5000}", None)],
)  # fmt: skip
def test_range_headers_give_the_span_to_send(header, span):
    assert _range(header, 10) == span
