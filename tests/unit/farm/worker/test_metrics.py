"""Metrics of a worker: what it uses and what it moves."""

from __future__ import annotations

import pytest

from render_farm.farm.worker.metrics import WorkerMetrics
from render_farm.observability import metrics as m
from render_farm.storage.meter import StorageMeter
from render_farm.storage.open import open_store
from tests.helpers.metrics_sink import Remembered


class Worker:
    name = "worker-3.7"
    kv_cache_bytes = 11
    engine_s = 1.5

    def __init__(self) -> None:
        self.meter = StorageMeter()


def test_a_worker_tells_what_it_uses_and_moves(tmp_path):
    worker, sink = Worker(), Remembered()
    store = open_store(tmp_path, meter=worker.meter)
    store.write_bytes("a", b"12345")
    assert store.read_bytes("a") == b"12345"
    (tmp_path / "file").write_bytes(b"123")
    store.put_file(tmp_path / "file", "b")
    store.get_file("b", tmp_path / "copy")
    assert store.create("c", b"1") and not store.create("c", b"1")
    assert not store.exists("nothing")
    with pytest.raises(Exception, match="a file is where"):
        store.write_bytes("a/b", b"")
    told = WorkerMetrics(worker, sink, every_s=3600)
    told.close()
    assert sink.of(m.STORAGE_BYTES, "written") == 5 + 3 + 1
    assert sink.of(m.STORAGE_BYTES, "read") == 5 + 3
    assert sink.of(m.STORAGE_ERRORS, "write", "given_up") == 1
    assert sink.of(m.BUSY_SECONDS, "worker-3") == 1.5
    assert sink.of(m.WORKER_SECONDS, "worker-3") > 0
    assert sink.of(m.KV_CACHE_BYTES, "worker-3") == 11
    assert sink.of(m.WORKER_MEMORY, "worker-3", "host") > 1 << 20
    assert not any(key[-1] == "device" for key in sink.values)
