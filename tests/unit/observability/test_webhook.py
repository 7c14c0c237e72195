"""Notices to a webhook: signed, tried again, and never in the way of a run."""

from __future__ import annotations

import json
import time

import pytest

from render_farm.observability.notices import Notifier, RunNotices
from render_farm.observability.webhook import Webhook, signature
from tests.helpers.receiver import receiver

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
