"""File systems of stores: kept, because making one is slow, as long as the environment stays the same."""

from __future__ import annotations

from render_farm.media.fetching.store_errors import open_place


def test_one_file_system_serves_the_inputs_of_an_environment(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    first, path = open_place("s3", "s3://bucket/a.png")
    assert path == "bucket/a.png"
    assert open_place("s3", "s3://other/b.png")[0] is first
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    assert open_place("s3", "s3://bucket/a.png")[0] is not first
