"""Notices to a webhook: signed, tried again, and never in the way of a run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socketserver
import time

import pytest

from render_farm.observability.notices import Notifier, RunNotices
from render_farm.observability.webhook import Webhook, signature
from tests.helpers.receiver import receiver, running

NOW = 1_763_700_000.0


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


@pytest.mark.slow
def test_sending_a_notice_never_blocks():
    class Slow:
        def send(self, notice):
            time.sleep(0.3)

    started = time.monotonic()
    with Notifier([Slow()], on_failure=print) as sender:
        for _ in range(2):
            sender.tell(notice())
        assert time.monotonic() - started < 0.2


def test_a_slack_webhook_gets_the_body_that_slack_expects():
    with receiver() as server:
        Webhook(server.url, template="slack").send(notice("a<b>&c"))
        content = json.loads(server.taken[0][1])
    assert content["text"] == "Run a&lt;b&gt;&amp;c ended: 2 of 2 films are done."
    assert content["blocks"][0]["text"]["type"] == "mrkdwn"


KEY = bytes(range(32))
STANDARD_SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.mark.parametrize(("secret", "key"), [("hush", b"hush"), (STANDARD_SECRET, KEY)])
def test_a_receiver_of_standard_webhooks_can_check_a_notice(secret, key):
    """As their specification says it: base64 of HMAC-SHA256 over `id.timestamp.body`, with the version before it."""
    with receiver(503) as server:
        with Notifier([Webhook(server.url, secret=secret)], on_failure=print, pauses_s=(0.01,)) as sender:
            sender.tell(notice())
        (first, _), (second, body) = server.taken
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    message_id, stamp, signed = (second[next(name for name in second if name.lower() == asked)] for asked in names)
    content = f"{message_id}.{stamp}.".encode() + body
    assert signed == "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert abs(int(stamp) - time.time()) < 60
    assert message_id in first.values(), "every try is the same message"


def test_a_secret_that_is_not_base64_where_it_says_so_is_refused():
    with pytest.raises(ValueError, match="not base64"):
        Webhook("https://x", secret="whsec_?")


class Garbage(socketserver.BaseRequestHandler):
    def handle(self):
        self.server.num_asked += 1
        self.request.recv(65536)
        self.request.sendall(self.server.garbage)


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00\xff\n\n", b"HTTP/1.1 banana\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"]
)
def test_a_server_that_answers_garbage_is_tried_again_and_does_not_end_the_notices(garbage):
    failures = []
    with running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Garbage)) as bad, receiver() as good:
        bad.garbage, bad.num_asked = garbage, 0
        channels = [Webhook(f"http://127.0.0.1:{bad.server_address[1]}/"), Webhook(good.url)]
        with Notifier(channels, on_failure=failures.append, pauses_s=(0.01,)) as sender:
            sender.tell(notice("first"))
            sender.tell(notice("second"))
        assert bad.num_asked == 4
        told = [json.loads(body)["run_id"] for _, body in good.taken]
    assert told == ["first", "second"]
    assert len(failures) == 2 and all("was not delivered" in failure for failure in failures)


def test_a_fault_of_one_channel_does_not_end_the_others():
    class Faulty:
        def send(self, notice):
            raise KeyError("a mistake in a channel")

    failures = []
    with receiver() as server:
        with Notifier([Faulty(), Webhook(server.url)], on_failure=failures.append) as sender:
            sender.tell(notice())
        assert len(server.taken) == 1
    assert len(failures) == 1 and "a mistake in a channel" in failures[0]
