"""Requests to a run's coordinator through its folder."""

from __future__ import annotations

from render_farm.storage import open_store
from render_farm.storage.layout import RunKeys
from render_farm.storage.mailbox import Request, Verb, post, take_requests, wait_answer

KEYS = RunKeys(run_id="night")


def test_requests_are_taken_in_order_and_garbage_is_removed(tmp_path):
    store = open_store(tmp_path)
    first = post(store, "night", Request(verb=Verb.PAUSE, by="x"))
    store.write_bytes(f"{KEYS.control}/evil.request.json", b"\x80\x04pickle")
    store.write_bytes(f"{KEYS.control}/{'0' * 8}.request.json", store.read_bytes(KEYS.request(first))[:-20])
    assert [request for _, request in take_requests(store, "night")] == [Request(verb=Verb.PAUSE, by="x")]
    assert store.list(KEYS.control) == [KEYS.request(first)]
    assert wait_answer(store, "night", first, 0.0) is None
    assert store.list(KEYS.control) == []
