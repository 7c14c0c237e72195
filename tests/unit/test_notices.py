"""Notices: what is told and once only, and that it arrives at a real HTTP server, or does no harm."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.cli.watch.notify import RunNotifier, channels_of
from render_farm.errors import UsageError
from render_farm.farm.run.settings import load_settings
from render_farm.farm.run.snapshot import RunSnapshot
from render_farm.observability.mail import Mail
from render_farm.observability.notices import NoticeKind, Notifier, RunNotices
from render_farm.observability.webhook import Webhook, signature
from render_farm.storage.open import open_store
from tests.synthetic_run import write_run

NOW = 1_763_700_000.0


def picture(notices: RunNotices, state: str = "running", eta_s: float | None = None, ended=(), **jobs: int):
    return notices.due(
        run_id="night", output="s3://films", state=state, jobs=jobs, num_jobs=10, eta_s=eta_s, now_s=NOW, ended=ended
    )


def test_each_thing_is_told_once():
    notices = RunNotices(deadlines={"early": NOW + 3600, "later": NOW + 9000, "there": NOW - 60}, failed_before=1)
    assert picture(notices, ended=["there"]) == []
    assert picture(notices, failed=1, eta_s=600.0) == []
    told = picture(notices, failed=2, done=3, eta_s=20_000.0)  # five are left, evenly: 4,000 s, 8,000 s ...
    assert [notice.kind for notice in told] == [NoticeKind.FIRST_FAILURE, NoticeKind.DEADLINE_RISK]
    assert (
        told[1].text
        == "Run night: a film may miss the deadline, early, due 2025-11-21 05:40 UTC; 3 of 10 films are done."
    )
    assert picture(notices, failed=4, eta_s=9999.0) == []
    (ended,) = picture(notices, state="failed", failed=4, done=6)
    assert ended.text == "Run night ended: 6 of 10 films are done, 4 failed."
    assert ended.report == "s3://films/_runs/night/report.html"
    assert picture(notices, state="failed", failed=4, done=6) == []


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((dict(self.headers), body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def receiver(*answers):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.taken, server.answers = [], list(answers)
    with running(server):
        server.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        yield server


def notice(run_id: str = "night"):
    return RunNotices().due(
        run_id=run_id, output="out", state="done", jobs={"done": 2}, num_jobs=2, eta_s=None, now_s=NOW
    )[0]


def test_a_webhook_is_signed_and_tried_again():
    failures = []
    with receiver(503, 429) as server:
        with Notifier(
            [Webhook(server.url, secret="hush")], on_failure=failures.append, pauses_s=(0.01, 0.01)
        ) as sender:
            sender.tell(notice())
        assert len(server.taken) == 3
        headers, body = server.taken[-1]
    assert failures == []
    assert headers["X-Render-Farm-Signature"] == signature("hush", headers["X-Render-Farm-Timestamp"], body)
    assert signature("other", headers["X-Render-Farm-Timestamp"], body) != headers["X-Render-Farm-Signature"]
    content = json.loads(body)
    assert (content["kind"], content["jobs"], content["schema"]) == ("run_ended", {"done": 2}, "render_farm.notice/1")


@pytest.mark.parametrize(("answers", "num_sent"), [((400,), 1), ((500, 500, 500), 3), ((302,), 1)])
def test_what_cannot_be_delivered_is_said_once_and_given_up(answers, num_sent):
    failures = []
    with receiver(*answers) as server:
        with Notifier([Webhook(server.url)], on_failure=failures.append, pauses_s=(0.01, 0.01)) as sender:
            sender.tell(notice())
        assert len(server.taken) == num_sent
    assert len(failures) == 1
    assert "run ended was not delivered" in failures[0]


def test_telling_never_blocks():
    class Slow:
        def send(self, notice):
            time.sleep(0.3)

    started = time.monotonic()
    with Notifier([Slow()], on_failure=print) as sender:
        for _ in range(2):
            sender.tell(notice())
        assert time.monotonic() - started < 0.2


def test_slacks_body():
    with receiver() as server:
        Webhook(server.url, template="slack").send(notice("a<b>&c"))
        content = json.loads(server.taken[0][1])
    assert content["text"] == "Run a&lt;b&gt;&amp;c ended: 2 of 2 films are done."
    assert content["blocks"][0]["text"]["type"] == "mrkdwn"


def test_the_settings_of_a_run_tell_of_it(tmp_path):
    write_run(tmp_path, num_films=0, still_running=True)  # the deadlines of that night are long over
    environment = {"RENDER_FARM_NOTIFY_WEBHOOK_SECRET": "hush", "RENDER_FARM_NOTIFY_WEBHOOK_URL": "set below"}
    with receiver() as server:
        environment["RENDER_FARM_NOTIFY_WEBHOOK_URL"] = server.url
        settings = load_settings(environment=environment).notify
        with RunNotifier(settings, open_store(tmp_path)) as notifier:
            for state, counts in (("running", {"running": 2}), ("failed", {"failed": 1, "done": 39})):
                notifier.show(
                    RunSnapshot(
                        run_id="night", output=str(tmp_path), state=state, num_jobs=40, counts=counts, eta_s=1.0
                    )
                )
        told = [json.loads(body)["kind"] for _, body in server.taken]
    assert told == ["deadline_risk", "first_failure", "run_ended"]
    assert channels_of(load_settings(environment={}).notify) == []
    with pytest.raises(UsageError, match="mail_to"):
        channels_of(load_settings(environment={"RENDER_FARM_NOTIFY_SMTP_HOST": "mail"}).notify)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="http"):
        Webhook("ftp://x")
    with pytest.raises(ValueError, match="slack"):
        Webhook("https://x", template="teams")
    with pytest.raises(ValueError, match="mail_to"):
        Mail(host="h", sender="a@b", recipients=[])
    with pytest.raises(ValueError, match="starttls"):
        Mail(host="h", sender="a@b", recipients=["c@d"], security="ssl")


def test_the_render_command_tells_how_it_ended(tmp_path, monkeypatch):
    pq.write_table(pa.table({"job_id": ["a"], "prompt": ["a fox"], "num_frames": [0]}), tmp_path / "bad.parquet")
    with receiver() as server:
        monkeypatch.setenv("RENDER_FARM_NOTIFY_WEBHOOK_URL", server.url)
        command = ["render", str(tmp_path / "bad.parquet"), "--output", str(tmp_path / "out"), "--run-id", "night"]
        said = CliRunner().invoke(app, command, catch_exceptions=False)
        told = [json.loads(body) for _, body in server.taken]
    assert said.exit_code == 10
    assert [notice["kind"] for notice in told] == ["first_failure", "run_ended"]
    assert told[1]["text"] == "Run night ended: 0 of 1 films are done, 1 failed."
    assert (tmp_path / "out" / "_runs" / "night" / "report.html").exists()
