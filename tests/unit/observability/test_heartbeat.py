"""A night's start and end as GETs."""

from __future__ import annotations

import pytest

from render_farm.observability.heartbeat import Heartbeat
from render_farm.observability.notices import NotDelivered, Notice, NoticeKind
from tests.helpers.receiver import receiver


def notice(kind: NoticeKind, state: str) -> Notice:
    return Notice(kind=kind, run_id="night", output="out", state=state, text="")


STARTED = notice(NoticeKind.NIGHT_STARTED, "running")


@pytest.mark.parametrize(
    ("address", "code", "asked"),
    [
        ("/{event}", "0", ["/hook/start", "/hook/0"]),
        ("/{event}", "11", ["/hook/start", "/hook/11"]),
        ("?up", "0", ["/hook?up", "/hook?up"]),
        ("?up", "11", ["/hook?up"]),  # what says only that all is well is not asked
    ],
)
def test_an_address_is_asked_at_the_start_and_at_the_end(address, code, asked):
    with receiver() as server:
        heartbeat = Heartbeat(server.url + address)
        heartbeat.send(STARTED)
        heartbeat.send(notice(NoticeKind.NIGHT_ENDED, code))
        assert server.asked == asked


def test_a_server_in_trouble_is_worth_another_try():
    with receiver(500, 404) as server:
        for final in (False, True):
            with pytest.raises(NotDelivered, match="the heartbeat's server answered") as caught:
                Heartbeat(server.url).send(STARTED)
            assert caught.value.final is final
