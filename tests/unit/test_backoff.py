"""The pauses between tries: spread out, growing, and as long as a throttling server asks for."""

from __future__ import annotations

import statistics
import urllib.error
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from render_farm.backoff import Backoff, retry_after_s
from render_farm.errors import StorageError


def headers(value: str) -> Message:
    message = Message()
    message["Retry-After"] = value
    return message


def of_s3(value: str) -> ClientError:
    answer = {"HTTPStatusCode": 503, "HTTPHeaders": {"retry-after": value}}
    return ClientError({"Error": {"Code": "SlowDown"}, "ResponseMetadata": answer}, "PutObject")


def of_urllib(value: str) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("https://host", 429, "busy", headers(value), None)


def of_httpx(value: str) -> Exception:
    error = Exception("429")
    error.response = SimpleNamespace(status_code=429, headers={"Retry-After": value})
    return error


def test_many_that_were_throttled_together_come_back_spread_over_the_whole_ceiling():
    loops = [Backoff(1.0, 8.0) for _ in range(512)]
    for ceiling_s in (1.0, 2.0, 4.0, 8.0, 8.0):
        pauses = [loop.next_s() for loop in loops]
        assert all(0 <= pause <= ceiling_s for pause in pauses)
        assert abs(statistics.mean(pauses) - ceiling_s / 2) < ceiling_s / 10
        assert max(sum(at <= pause < at + ceiling_s / 8 for pause in pauses) for at in pauses) < 512 / 4


def test_a_reset_starts_with_the_first_pause_again():
    loop = Backoff(1e-3, 60.0, factor=100)
    loop.next_s()
    loop.reset()
    assert loop.next_s() <= 1e-3


@pytest.mark.parametrize("error_of", [of_s3, of_urllib, of_httpx])
def test_a_server_that_names_a_time_is_not_asked_earlier(error_of):
    error = StorageError("busy")
    error.__cause__ = error_of("7")
    assert retry_after_s(error) == 7.0
    assert 7.0 <= Backoff(1.0).next_s(error) <= 8.0
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < retry_after_s(error_of(in_a_minute)) <= 60


@pytest.mark.parametrize("value", ["", "soon", "-5", "nan", "1e9", "9" * 400])
def test_nonsense_asks_for_nothing(value):
    assert retry_after_s(of_urllib(value)) == 0.0
    assert retry_after_s(None) == 0.0


def test_no_server_can_have_a_worker_wait_for_ever():
    assert retry_after_s(of_s3("999999")) == 120.0
