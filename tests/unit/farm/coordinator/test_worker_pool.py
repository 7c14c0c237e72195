"""The encoder's process, with actors that answer as they are told; no Ray."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from render_farm.farm.coordinator import worker_pool
from render_farm.farm.coordinator.worker_pool import WorkerPool
from render_farm.farm.run.spec import FarmConfig, RunSpec
from render_farm.farm.run.timeouts import Timeouts
from render_farm.farm.worker.text_worker import TextReport

REPORT = TextReport(num_new=1, seconds=0.1)


class Actors:
    """Stands for `TextWorker` and `ray`: each of its actors is ready or never, as `are_ready` says."""

    def __init__(self, *are_ready: bool) -> None:
        self._are_ready = list(are_ready)
        self.made: list[Any] = []
        self.killed: list[Any] = []

    def options(self, **_: object) -> Actors:
        return self

    def remote(self) -> Any:
        ready = asyncio.get_running_loop().create_future()
        if self._are_ready.pop(0):
            ready.set_result(None)

        async def encode(**_: object) -> TextReport:
            return REPORT

        self.made.append(
            SimpleNamespace(
                ready=SimpleNamespace(remote=lambda environment: ready), encode=SimpleNamespace(remote=encode)
            )
        )
        return self.made[-1]


@pytest.fixture
def pool() -> WorkerPool:
    return WorkerPool(
        FarmConfig(num_workers=1, device="cpu", timeouts=Timeouts(worker_start_s=0.02)),
        on_up=lambda *_: None,
        on_start_failed=lambda *_: None,
        on_unfit=lambda *_: None,
        on_cannot_start=lambda _: None,
        work_for=lambda: "",
        outputs=list,
    )


def test_an_encoder_that_does_not_get_ready_in_time_is_killed_and_another_one_encodes(pool, monkeypatch):
    actors = Actors(False, False, True)
    monkeypatch.setattr(worker_pool, "TextWorker", actors)
    monkeypatch.setattr(worker_pool.ray, "kill", actors.killed.append)
    monkeypatch.setattr(
        worker_pool.ray, "get_runtime_context", lambda: SimpleNamespace(current_actor="the coordinator")
    )
    spec = RunSpec(run_id="night", output="/nowhere")
    report = asyncio.run(asyncio.wait_for(pool.encode(spec, model="tiny", texts=["a"]), 5.0))
    assert report == REPORT
    assert len(actors.made) == 3
    assert actors.killed == actors.made
