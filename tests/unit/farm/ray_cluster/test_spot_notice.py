"""Spot notices, as each cloud's metadata service gives them. tests/farm/test_spot_drain.py has Ray drain a node."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from render_farm.farm.ray_cluster import spot_notice
from render_farm.farm.ray_cluster.spot_notice import CLOUDS, find_cloud, main, wait_for_notice
from tests.helpers.fixtures_s3 import free_port
from tests.helpers.metadata_server import metadata_server


@pytest.mark.parametrize("name", CLOUDS)
def test_each_cloud_is_recognized_and_its_notice_read(name):
    with metadata_server(name) as server:
        found = find_cloud(server.url)
        assert found is not None
        assert found[0] == name
        assert found[1].gone_s() is None
        gone_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=30)
        server.gone_at = gone_at
        assert found[1].gone_s() == pytest.approx(gone_at.timestamp(), abs=5)


def test_azures_notices_for_other_machines_are_not_ours():
    with metadata_server("Azure") as server:
        server.gone_at, server.resource = datetime.now(UTC), "farm-8"
        found = find_cloud(server.url)
        assert found is not None
        assert found[1].gone_s() is None


@pytest.mark.parametrize("name", CLOUDS)
def test_a_service_in_trouble_is_asked_again(name):
    with metadata_server(name) as server:
        found = find_cloud(server.url)
        assert found is not None
        server.fails, server.gone_at = True, datetime.now(UTC) + timedelta(seconds=30)
        threading.Timer(0.2, setattr, (server, "fails", False)).start()
        started = time.monotonic()
        wait_for_notice(found[1], every_s=0.02)
        assert time.monotonic() - started >= 0.15


def test_without_a_metadata_service_it_ends(monkeypatch):
    monkeypatch.setattr(spot_notice, "_FOUND_WITHIN_S", 0.0)
    monkeypatch.setattr(spot_notice, "_EVERY_S", 0.0)
    assert main(["--metadata", f"http://127.0.0.1:{free_port()}"]) == 1


def test_ray_is_told_until_it_accepts(monkeypatch):
    """A head that is away, then a node that has not joined yet."""
    answers = [ConnectionError("no head"), 0, 1]
    told = []

    def drain(address, ip, *, gone_s, reason):
        told.append((address, ip, reason))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(spot_notice, "drain_machine", drain)
    monkeypatch.setattr(spot_notice, "_EVERY_S", 0.0)
    with metadata_server("Google") as server:
        server.gone_at = datetime.now(UTC)
        assert main(["--metadata", server.url, "--address", "head:6379", "--node-ip", "10.0.0.7"]) == 0
    assert told == [("head:6379", "10.0.0.7", "spot notice of Google")] * 3
