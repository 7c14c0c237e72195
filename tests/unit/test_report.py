"""The report's data: where time went, why films failed, what changed; and the server of it, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from render_farm.errors import NotFoundError, UsageError
from render_farm.farm.run.settings import load_settings
from render_farm.observability.events import EventKind, LogLine
from render_farm.observability.live import LiveRun, dump_live
from render_farm.report.failures import group_failures
from render_farm.report.page import build_page, dump_data
from render_farm.report.page_data import Price, page_data
from render_farm.report.run_folder import RunFolder
from render_farm.report.serve import ReportServer, _range
from render_farm.report.timeline import BETWEEN, PAUSED, RETRY, TAIL, TEXT, build_timeline
from render_farm.report.writer import ReportWriter
from render_farm.storage.layout import RunKeys
from render_farm.storage.open import open_store
from tests.synthetic_run import HOSTILE, START_S, write_preview, write_run


def event(time_s: float, kind: EventKind, worker: str = "", job_id: str = "", **values) -> LogLine:
    return LogLine(
        number=1, time_s=time_s, level="debug", job_id=job_id, message="", kind=kind, worker=worker, values=values
    )


def test_idle_time_has_its_reason():
    timeline = build_timeline(
        [
            event(0, EventKind.RUN_STARTED),
            event(1, EventKind.WORKER_UP, "w"),
            event(1, EventKind.TEXT_STARTED),
            event(5, EventKind.TEXT_DONE),
            event(5, EventKind.SEGMENT_STARTED, "w", "a"),
            event(9, EventKind.WORK_FAILED, "w", "a"),
            event(12, EventKind.SEGMENT_STARTED, "w", "a"),
            event(15, EventKind.SEGMENT_DONE, "w", "a"),
            event(16, EventKind.SEGMENT_STARTED, "w", "b"),
            event(20, EventKind.SEGMENT_DONE, "w", "b"),
            event(26, EventKind.WORKER_ENDED, "w"),
        ]
    )
    assert timeline.idle_s == {TAIL: 6.0, TEXT: 4.0, RETRY: 3.0, BETWEEN: 1.0}
    assert [(span.kind, span.end_s - span.start_s) for span in timeline.spans] == [
        ("failed", 4),
        ("segment", 3),
        ("segment", 4),
    ]
    assert timeline.up_s == {"w": 25.0}


def test_every_worker_of_a_render_group_is_busy():
    timeline = build_timeline(
        [
            event(0, EventKind.WORKER_UP, "v"),
            event(0, EventKind.WORKER_UP, "w"),
            event(1, EventKind.SEGMENT_STARTED, "v", "a", helpers=["w"]),
            event(9, EventKind.SEGMENT_DONE, "v", "a"),
        ]
    )
    assert [(span.worker, span.end_s - span.start_s) for span in timeline.spans] == [("v", 8), ("w", 8)]
    assert timeline.idle_s == {BETWEEN: 2.0}


def test_a_worker_that_finishes_beside_its_next_segment_is_busy_once():
    timeline = build_timeline(
        [
            event(0, EventKind.WORKER_UP, "w"),
            event(0, EventKind.FINISH_STARTED, "w", "a"),
            event(1, EventKind.SEGMENT_STARTED, "w", "b"),
            event(6, EventKind.FILM_PUBLISHED, "w", "a"),
            event(8, EventKind.SEGMENT_DONE, "w", "b"),
        ]
    )
    assert timeline.idle == []


def test_work_under_a_farm_that_was_killed_came_to_nothing_and_the_pause_costs_nothing():
    timeline = build_timeline(
        [
            event(0, EventKind.RUN_STARTED),
            event(1, EventKind.WORKER_UP, "w"),
            event(2, EventKind.SEGMENT_STARTED, "w", "a"),
            event(100, EventKind.RUN_STARTED),
            event(101, EventKind.WORKER_UP, "v"),
            event(101, EventKind.SEGMENT_STARTED, "v", "a"),
            event(105, EventKind.SEGMENT_DONE, "v", "a"),
        ]
    )
    assert [span.kind for span in timeline.spans] == ["failed", "segment"]
    assert timeline.up_s == {"w": 1.0, "v": 4.0}


def test_work_that_goes_on_ends_now():
    timeline = build_timeline([event(0, EventKind.SEGMENT_STARTED, "w", "a")], now_s=7)
    assert [(span.end_s, span.kind) for span in timeline.spans] == [(7, "segment")]
    assert build_timeline([]).spans == []


def test_failures_that_differ_in_names_and_numbers_are_one_cause():
    rows = [
        {"job_id": f"a{n}", "state": "failed", "error_class": "InputError", "message": f"a{n}: image {n}.png: missing"}
        for n in range(30)
    ]
    rows.append(
        {
            "job_id": "b",
            "state": "failed",
            "error_class": "InvalidJobError",
            "message": "row 3 (job_id=b): num_frames: 0 is less than 1",
        }
    )
    first, second = group_failures([*rows, {"job_id": "c", "state": "done"}], run_id="night", output="s3://b/it's")
    assert (len(first.job_ids), first.message) == (30, "image 0.png: missing")
    assert first.retry == "render-farm retry night --failed --output 's3://b/it'\"'\"'s'"
    assert (second.message, second.retry) == ("num_frames: 0 is less than 1", "")
    assert "Correct these rows" in second.advice


def test_the_page_of_a_night(tmp_path):
    write_run(tmp_path, run_id="before", started_s=START_S - 86_400, num_films=0, num_jobs=38, seed=3)
    write_run(tmp_path, num_films=0)
    data = ReportWriter(open_store(tmp_path), "night", Price(per_hour=2.5, currency="EUR")).data()
    totals = data["totals"]
    assert totals["states"] == {"done": 38, "failed": 2}
    assert totals["video_s"] == pytest.approx(38 * 257 / 24, abs=0.5)
    assert totals["cost"] == pytest.approx(totals["held_s"] / 3600 * 2.5, abs=0.01)
    assert totals["held_s"] >= totals["work_s"] + totals["idle_s"] - 0.5
    assert totals["deadlines"] == 4
    assert [data["jobs"]["id"][index] for index in data["seams"]] == [
        "shot-0031",
        "shot-0013",
        "shot-0022",
        "shot-0004",
    ]
    assert data["changes"]["run"] == "before"
    assert data["changes"]["rows"][0] == ["films", 38, 40]
    assert sum(data["throughput"]["films"]) == 38
    assert len(data["gantt"]["workers"]) == 4


def test_a_run_of_which_only_the_manifest_is_there_has_a_page(tmp_path):
    folder = write_run(tmp_path, num_films=0)
    (folder / "results.parquet").unlink()
    for path in (folder / "logs").iterdir():
        path.unlink()
    data = ReportWriter(open_store(tmp_path), "night").data()
    assert data["totals"]["jobs"] == 40
    assert not data["run"]["over"]
    assert build_page(data)


def test_results_of_the_run_before_may_lack_columns(tmp_path):
    before = write_run(tmp_path, run_id="before", started_s=START_S - 86_400, num_films=0, num_jobs=38, seed=3)
    write_run(tmp_path, num_films=0)
    results = before / "results.parquet"
    pq.write_table(pq.read_table(results).select(["job_id", "state"]), results)
    rows = {name: then for name, then, _ in ReportWriter(open_store(tmp_path), "night").data()["changes"]["rows"]}
    assert (rows["films"], rows["rendering hours in all"]) == (38, 0.0)


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_run(tmp_path, num_films=0)
    with pytest.raises(NotFoundError, match="night") as caught:
        ReportWriter(open_store(tmp_path), "other").data()
    assert caught.value.exit_code == 14


def test_what_users_wrote_cannot_leave_the_data(tmp_path):
    write_run(tmp_path, num_films=0)
    page = build_page(ReportWriter(open_store(tmp_path), "night").data()).decode()
    assert HOSTILE not in page
    assert "<img" not in page
    assert page.count("</script>") == 2
    inside = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert HOSTILE in json.loads(inside)["jobs"]["prompt"]
    assert "default-src 'none'" in page
    assert json.loads(dump_data({"text": "\u2028<&>"})) == {"text": "\u2028<&>"}


NOT_SERVED = (
    "/_runs/none/report.html",
    "/_runs/night/../night/report.html",
    "/_runs/night/run.json",
    "/shot-0000/job.json",
    "/nobody/video.mp4",
    "/%2e%2e/video.mp4",
    "/..%2f..%2fetc/poster.jpg",
)


def test_idle_time_of_a_pause_is_the_pauses():
    started = [event(0, EventKind.RUN_STARTED), event(0, EventKind.WORKER_UP, "w")]
    paused = [
        event(10, EventKind.RUN_PAUSED),
        event(60, EventKind.RUN_RESUMED),
        event(60, EventKind.SEGMENT_STARTED, "w", "a"),
        event(70, EventKind.SEGMENT_DONE, "w", "a"),
        event(75, EventKind.RUN_PAUSED),
    ]
    assert build_timeline([*started, *paused], now_s=300).idle_s == {PAUSED: 60 + 230}
    ended = replace(event(80, EventKind.WORKER_ENDED, "w"), number=9)
    anew = [event(200, EventKind.RUN_STARTED), event(200, EventKind.WORKER_UP, "v")]
    again = [event(210, EventKind.SEGMENT_STARTED, "v", "a"), event(220, EventKind.SEGMENT_DONE, "v", "a")]
    older = [*started, replace(event(0, EventKind.RUN_PAUSED), number=7), ended, *anew, *again]
    assert build_timeline(older).idle_s == {PAUSED: 80, BETWEEN: 10}  # it was resumed while nobody rendered it


def test_a_deadline_is_kept_by_a_film_that_is_done_in_time_only():
    due = datetime.fromtimestamp(1000.0, UTC)
    results = [
        {"job_id": "in-time", "state": "done", "finished_at": 999.0},
        {"job_id": "there-already", "state": "done"},
        {"job_id": "late", "state": "done", "finished_at": 1001.0},
        {"job_id": "cancelled", "state": "cancelled", "finished_at": 900.0},
        {"job_id": "none", "state": "done", "finished_at": 5.0},
    ]
    jobs = [{"job_id": row["job_id"], "prompt": "x", "deadline": due} for row in results]
    del jobs[-1]["deadline"]
    folder = RunFolder(run_id="r", document={}, jobs=jobs, results=results)
    for now_s, late in ((950.0, 1), (1100.0, 2)):
        totals = page_data(folder, now_s=now_s)["totals"]
        assert (totals["deadlines"], totals["kept"], totals["late"]) == (4, 2, late)


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
        live = LiveRun(time_s=time.time(), state="running", eta_s=90.0, steps_per_s=2.5, num_workers=4, workers_busy=3)
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
def test_ranges(header, span):
    assert _range(header, 10) == span


def test_signed_links_are_for_object_stores(tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    with pytest.raises(UsageError, match="no signed links"):
        ReportWriter(open_store(tmp_path), "night", links_for_s=60).write()
    environment = {"RENDER_FARM_REPORT_LINK_HOURS": "12"}
    assert load_settings(environment=environment).report_link_hours == 12
    with pytest.raises(UsageError, match="at most 168"):
        load_settings(environment={"RENDER_FARM_REPORT_LINK_HOURS": "200"})
