"""How patiently the prompts of a run are encoded, with an encoder that fails as it is told; no Ray."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import RayActorError

from render_farm.errors import StorageError
from render_farm.farm.coordinator.run_texts import RunTexts
from render_farm.farm.coordinator.text_stage import TextStage
from render_farm.farm.run.progress import RunProgress
from render_farm.farm.run.spec import RunSpec
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.farm.worker.text_worker import TextReport
from render_farm.scheduling.retry import RetryPolicy
from render_farm.storage import open_store

TEXTS = ["a", "b", "c"]


class Encoder:
    """Stores one text a try, then raises the next of `errors` while there are some."""

    def __init__(self, stored: EmbeddingStore, errors: list[BaseException], *, seconds: float, makes: int) -> None:
        self._stored, self._errors, self._seconds, self._makes = stored, errors, seconds, makes

    async def encode(self, spec: RunSpec, *, texts: list[str], **_: object) -> TextReport:
        await asyncio.sleep(self._seconds)
        for text in texts[: self._makes if self._errors else None]:
            self._stored.save(text, torch.ones(2, 3))
        if self._errors:
            raise self._errors.pop(0)
        return TextReport(num_new=len(texts), seconds=self._seconds)


@pytest.mark.parametrize(
    ("errors", "makes", "attempts", "fails"),
    [
        ([StorageError("503")], 0, 1, ""),  # the first failure after a long try is no long row of failures
        ([StorageError("503")] * 2, 0, 1, "StorageError"),
        ([StorageError("503")] * 2, 1, 1, ""),
        ([RayActorError(error_msg="The actor died because its node has died.")] * 3, 0, 1, ""),
        ([RayActorError(error_msg="Worker exit type: SYSTEM_ERROR")], 0, 1, "WorkerDiedError"),
        ([RayActorError(error_msg="Worker exit type: SYSTEM_ERROR")], 0, 2, ""),
    ],
)
def test_what_fails_is_tried_again_as_the_table_says(tmp_path, monkeypatch, errors, makes, attempts, fails):
    monkeypatch.setattr("render_farm.scheduling.retry._FIRST_DELAY_S", 0.0)
    record = RunProgress(RunSpec(run_id="night", output=str(tmp_path)), open_store(tmp_path))
    stored = EmbeddingStore(record.store, "night", "f")
    stage = TextStage(
        Encoder(stored, list(errors), seconds=0.03, makes=makes),
        RetryPolicy(attempts=attempts, patience_s=0.02),
        takes_slot=False,
        free_slot=lambda: asyncio.sleep(0),
        on_encoded=lambda report: None,
    )
    failure = asyncio.run(stage.encode(record, "tiny", "f", TEXTS))
    assert (failure.error_class if failure else "") == fails
    assert bool(stored.missing(TEXTS)) is bool(fails)


def test_a_cancelled_run_waits_for_no_encoder(tmp_path):
    """Its machine may never come, and Ray would go on asking for it."""
    told = []

    class Stage:
        async def encode(self, *_: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                told.append("the encoder is ended")

    async def cancel() -> None:
        run = SimpleNamespace(
            key="r",
            encoding=set(),
            texts={"tiny": {"a": None}},
            fingerprints={"tiny": "f"},
            over=asyncio.Event(),
            progress=None,
        )
        texts = RunTexts(Stage(), SimpleNamespace(apply=told.append), SimpleNamespace())
        encoding = asyncio.ensure_future(texts.encode_all(run))
        await asyncio.sleep(0.01)
        run.over.set()
        await asyncio.wait_for(encoding, 5.0)
        await asyncio.sleep(0.01)

    asyncio.run(cancel())
    assert told == ["the encoder is ended"]
