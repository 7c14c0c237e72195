"""The prompts of a run, encoded ahead of rendering by a process of its own that then ends, encoder and all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from render_farm.errors import Fault
from render_farm.farm.embeddings import EmbeddingStore
from render_farm.farm.failures import classify
from render_farm.farm.run_record import RunRecord
from render_farm.farm.worker_pool import WorkerPool
from render_farm.scheduling.retry import Failure

_ATTEMPTS = 3


class TextStage:
    """Encodes one run at a time. On GPUs the encoder takes a worker's place: `free_a_place` sees to it."""

    def __init__(self, pool: WorkerPool, *, takes_a_place: bool, free_a_place: Callable[[], Awaitable[None]]) -> None:
        self._pool = pool
        self._takes_a_place = takes_a_place
        self._free_a_place = free_a_place
        self._turn = asyncio.Lock()

    async def encode(self, record: RunRecord, model: str, fingerprint: str, texts: list[str]) -> Failure | None:
        """Encode what the run's storage does not hold yet; None when all is there, else why it cannot be."""
        spec = record.spec
        stored = EmbeddingStore(record.store, spec.run_id, fingerprint)
        async with self._turn:
            attempt = 0
            while True:
                attempt += 1
                try:
                    missing = await asyncio.to_thread(stored.missing, texts)
                    if not missing:
                        return None
                    record.note = f"encoding {len(missing)} prompts"
                    if self._takes_a_place:
                        await self._free_a_place()
                    await self._pool.encode(model=model, output=spec.output, run_id=spec.run_id, texts=missing)
                except Exception as error:  # noqa: BLE001  (any exception of the encoder's process is classified)
                    failure = classify(error)
                    if failure.fault in (Fault.JOB, Fault.USER) or attempt >= _ATTEMPTS:
                        return failure
                    record.log.add(f"encoding the prompts again: {failure.message}", level="warning")
                    await asyncio.sleep(attempt)
                finally:
                    record.note = ""
