"""`TextWorker`: a short-lived Ray actor that encodes the prompts of a run. It ends then, and so frees the encoder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from render_farm.farm.ray_cluster.environment import WorkerEnvironment
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.media.fetching.places import check_model_uri
from render_farm.media.limits import InputLimits
from render_farm.storage.meter import StorageMeter, Traffic
from render_farm.storage.open import open_store

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """Prompts are encoded and stored."""

    num_new: int
    seconds: float
    """Time of loading the encoder, encoding and storing."""
    traffic: Traffic = Traffic()


@ray.remote(max_restarts=0, max_task_retries=0)
class TextWorker:
    """Encodes each text that the run's storage does not hold yet."""

    def ready(self, environment: WorkerEnvironment) -> None:
        """The process is there, and has its environment."""
        environment.apply()

    def encode(
        self,
        *,
        model: str,
        is_named: bool,
        limits: InputLimits,
        device: str,
        dtype: str | None,
        output: str,
        run_id: str,
        texts: list[str],
        cache_folder: str | None,
        coordinator: Any,
    ) -> TextReport:
        """Encode `texts` with `model`'s text encoder into the run's storage. Progress is reported to the coordinator
        now and then. `is_named` says whether a row names the model."""
        from render_farm.engine import load_engine

        if is_named:
            check_model_uri(model, limits)
        started, meter = time.monotonic(), StorageMeter()
        engine = load_engine(
            model,
            device=device,
            dtype=dtype,
            cache_folder=Path(cache_folder) if cache_folder else None,
            limits=limits,
        )
        stored = EmbeddingStore(open_store(output, meter=meter), run_id, engine.spec.fingerprint)
        missing = stored.missing(texts)
        for start in range(0, len(missing), _BATCH):
            for text, embedding in engine.encode_prompts(missing[start : start + _BATCH]).items():
                stored.save(text, embedding)
            coordinator.encoded.remote()
        seconds = time.monotonic() - started
        return TextReport(num_new=len(missing), seconds=seconds, traffic=meter.take())
