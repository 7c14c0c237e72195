"""Reports a run to its observer, from its first film to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from render_farm.errors import RenderFarmError
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.observability.snapshot import RunSnapshot

_EVERY_S = 2.0


async def observe(run: OwnedRun, snapshot_of: Callable[..., RunSnapshot]) -> None:
    """Show the run to its observer now and then, and at its end. A failing observer never fails a run, and only the
    report of the end is waited for. No end is reported for a run that another process holds now, or whose driver died
    before it was complete.

    `snapshot_of(run, after_line=...)` is the run with its log lines since then.
    """
    try:
        if run.progress.spec.observer is not None:
            await _observe(run, snapshot_of)
    except Exception as error:  # noqa: BLE001  (whatever an observer does wrong, the run goes on)
        run.progress.log.add(_problem(error), level="warning")
    finally:
        await run.over.wait()
        run.told.set()


async def _observe(run: OwnedRun, snapshot_of: Callable[..., RunSnapshot]) -> None:
    source, log, loop = run.progress.spec.observer, run.progress.log, asyncio.get_running_loop()
    assert source is not None

    def on_failure(text: str) -> None:
        loop.call_soon_threadsafe(partial(log.add, text, level="warning"))

    observer = await asyncio.to_thread(source.start, on_failure)
    line = 0
    try:
        is_over = False
        while not is_over:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.over.wait(), _EVERY_S)
            is_over = run.is_over
            if not run.started or run.cut_short or (is_over and run.lease_lost):
                continue
            snapshot = snapshot_of(run, after_line=line)
            line = snapshot.log[-1].number if snapshot.log else line
            try:
                await asyncio.to_thread(observer.show, snapshot)
            except RenderFarmError as error:  # of the store: the next time may succeed
                log.add(_problem(error), level="warning")
    finally:
        await asyncio.to_thread(observer.close)


def _problem(error: Exception) -> str:
    return f"the run could not be reported: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
