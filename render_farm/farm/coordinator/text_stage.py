"""The prompts of a run, encoded ahead of rendering by a process of its own that then ends, encoder and all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from render_farm.farm.coordinator.failures import classify
from render_farm.farm.coordinator.worker_pool import WorkerPool
from render_farm.farm.run.progress import RunProgress
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.farm.worker.text_worker import TextReport
from render_farm.observability.events import EventKind
from render_farm.scheduling.retry import Failure, RetryPolicy, Then, judge, rule_for


class TextStage:
    """Encodes one run at a time. On GPUs the encoder takes a worker's slot, which `free_slot` empties."""

    def __init__(
        self,
        pool: WorkerPool,
        policy: RetryPolicy,
        *,
        takes_slot: bool,
        free_slot: Callable[[], Awaitable[None]],
        on_encoded: Callable[[TextReport], None],
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._takes_slot = takes_slot
        self._free_slot = free_slot
        self._on_encoded = on_encoded
        self._turn = asyncio.Lock()

    async def encode(self, progress: RunProgress, model: str, fingerprint: str, texts: list[str]) -> Failure | None:
        """Encode what the run's storage does not hold yet; None when all is there, else why it cannot be."""
        spec = progress.spec
        stored = EmbeddingStore(progress.store, spec.run_id, fingerprint)
        if self._turn.locked():
            progress.note = "waiting for the prompts of another run to be encoded"
        async with self._turn:
            waits = num_missing = 0
            faults: list[str] = []
            waiting_since_s = 0.0
            while True:
                try:
                    missing = await asyncio.to_thread(stored.missing, texts)
                    if len(missing) < num_missing:  # the last try made some: its failure begins a new row
                        faults, waits = [], 0
                    num_missing = len(missing)
                    if not missing:
                        return None
                    progress.note = f"encoding {len(missing)} texts (prompts and negative prompts)"
                    progress.log.add(progress.note, level="debug", kind=EventKind.TEXT_STARTED)
                    if self._takes_slot:
                        progress.note = f"waiting for a free worker's slot to encode {len(missing)} texts"
                        await self._free_slot()
                        progress.note = f"encoding {len(missing)} texts"
                    report = await self._pool.encode(spec, model=model, texts=missing)
                    self._on_encoded(report)
                except Exception as error:  # noqa: BLE001  (any exception of the encoder's process is classified)
                    failure = classify(error, worker="that encodes the prompts")
                    now, is_waited_out = time.monotonic(), rule_for(failure).then is Then.ANYWHERE
                    if is_waited_out and waits == 0:
                        waiting_since_s = now
                    verdict = judge(
                        failure,
                        faults_before=faults,
                        waits_before=waits,
                        waiting_for_s=now - waiting_since_s,
                        policy=self._policy,
                    )
                    if not verdict.retry:
                        return failure
                    faults += [failure.error_class] * verdict.counted
                    waits += is_waited_out
                    progress.log.add(f"encoding the prompts again: {failure.message}", level="warning")
                    await asyncio.sleep(verdict.delay_s)
                finally:
                    if progress.note:
                        progress.log.add("the prompts are encoded", level="debug", kind=EventKind.TEXT_DONE)
                    progress.note = ""
