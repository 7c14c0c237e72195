"""A fault on a machine that turns out to be unfit for work is the machine's, and not the film's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from render_farm.errors import Fault, HostUnfitError, StorageUnavailableError
from render_farm.farm.coordinator.worker_calls import WorkerCalls
from render_farm.scheduling.retry import Failure

CRASHED = Failure(fault=Fault.WORKER, error_class="RuntimeError", message="it crashed")
STORE = Failure(fault=Fault.CLUSTER, error_class="StorageError", message="no answer")
BAD_ROW = Failure(fault=Fault.JOB, error_class="InputError", message="no such file")
DEVICE = Failure(fault=Fault.WORKER, error_class="DeviceError", message="ECC", poisons_process=True)
FULL = HostUnfitError("/tmp has 3 MiB free")


class Pool:
    """Answers probes."""

    def __init__(self, problem: BaseException | None) -> None:
        self.problem = problem
        self.probed: list[str] = []

    async def probe(self, worker: str) -> BaseException | None:
        self.probed.append(worker)
        return self.problem


@pytest.mark.parametrize(
    ("failure", "problem", "is_probed", "becomes"),
    [
        (CRASHED, None, True, (Fault.WORKER, "RuntimeError")),
        (CRASHED, FULL, True, (Fault.CLUSTER, "HostUnfitError")),
        (STORE, FULL, True, (Fault.CLUSTER, "HostUnfitError")),
        (CRASHED, StorageUnavailableError("no route"), True, (Fault.CLUSTER, "StorageUnavailableError")),
        (BAD_ROW, FULL, False, (Fault.JOB, "InputError")),
        (DEVICE, FULL, False, (Fault.WORKER, "DeviceError")),
    ],
)
def test_whose_fault_it_is_after_a_probe(failure, problem, is_probed, becomes):
    pool, told = Pool(problem), []
    nothing: Any = None
    calls = WorkerCalls(
        pool,  # type: ignore[arg-type]
        {},
        nothing,
        group_timeout_s=1.0,
        metrics=nothing,
        names=nothing,
        apply=nothing,
        on_worker_ended=nothing,
        on_prompt_missing=nothing,
        on_unfit=lambda worker, error: told.append((worker, error)),
    )
    judged = asyncio.run(calls._judged(failure, "w"))
    assert (judged.fault, judged.error_class) == becomes
    assert pool.probed == (["w"] if is_probed else [])
    assert told == ([("w", FULL)] if becomes[1] == "HostUnfitError" else [])
    assert failure.message in judged.message or problem is not FULL
