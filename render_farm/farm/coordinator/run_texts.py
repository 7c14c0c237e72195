"""The prompts of the runs: encoded when a run is sealed, and again when an embedding was lost."""

from __future__ import annotations

import asyncio

from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.coordinator.text_stage import TextStage
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.scheduling import events as ev


class RunTexts:
    """Runs the text stage, and tells the machine which films are ready."""

    def __init__(self, stage: TextStage, events: EventLoop, active: ActiveRuns) -> None:
        self._stage = stage
        self._events = events
        self._active = active

    async def encode_all(self, run: OwnedRun) -> None:
        """Have every prompt of the run encoded, a model at a time; its films become ready."""
        run.encoding.update(run.texts)
        for model in list(run.texts):
            await self._encode(run, model)

    async def _encode(self, run: OwnedRun, model: str) -> None:
        run.encoding.add(model)
        encode = asyncio.ensure_future(
            self._stage.encode(run.progress, model, run.fingerprints[model], list(run.texts[model]))
        )
        over = asyncio.ensure_future(run.over.wait())
        try:
            await asyncio.wait([encode, over], return_when=asyncio.FIRST_COMPLETED)
            if not encode.done():
                return  # it was cancelled, perhaps while the encoder's machine was still to come
            failure = await encode
        finally:
            run.encoding.discard(model)
            encode.cancel()
            over.cancel()
        if failure is None:
            self._events.apply(ev.TextReady(run_id=run.key, model=model))
        else:
            self._events.apply(ev.TextFailed(run_id=run.key, model=model, failure=failure))

    def missing(self, key: str, model: str) -> None:
        """An embedding was lost or damaged after it was stored: the films that need it wait until it is made again."""
        run = self._active.runs[key]
        if model not in run.encoding and not run.is_over:
            self._events.apply(ev.TextMissing(run_id=run.key, model=model))
            self._events.spawn(self._encode(run, model))
