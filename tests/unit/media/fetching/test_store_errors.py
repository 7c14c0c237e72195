"""File systems of stores: kept, because making one is slow, as long as the environment stays the same."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from render_farm.media.fetching import store_errors
from render_farm.media.fetching.store_errors import open_place


def test_one_file_system_serves_the_inputs_of_an_environment(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    first, path = open_place("s3", "s3://bucket/a.png")
    assert path == "bucket/a.png"
    assert open_place("s3", "s3://other/b.png")[0] is first
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    assert open_place("s3", "s3://bucket/a.png")[0] is not first


def test_inputs_that_are_read_at_once_share_it_from_the_first_one_on(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:3")
    usual, made = store_errors.fsspec.filesystem, []

    def slow(*arguments, **options):
        made.append(arguments)
        time.sleep(0.1)
        return usual(*arguments, **options)

    monkeypatch.setattr(store_errors.fsspec, "filesystem", slow)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda number: open_place("s3", f"s3://bucket/{number}.png")[0], range(16)))
    assert len(made) == 1 and all(fs is found[0] for fs in found)
