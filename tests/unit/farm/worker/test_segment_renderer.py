"""Segments are denoised by one thread, whichever of Ray's threads the calls come in."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from render_farm.farm.worker.resources import WorkerResources
from render_farm.farm.worker.segment_renderer import SegmentCall, SegmentRenderer


def test_all_segments_are_rendered_by_one_thread() -> None:
    renderer = SegmentRenderer(cast(WorkerResources, None))
    threads: list[str] = []
    renderer._render = lambda call: threads.append(threading.current_thread().name)  # type: ignore[method-assign,assignment,return-value]
    call = SegmentCall(task=cast(Any, None), segment=0)
    with ThreadPoolExecutor(max_workers=4) as callers:
        list(callers.map(lambda _: renderer.render(call), range(8)))
    renderer.close()
    assert len(threads) == 8 and set(threads) == {"denoise_0"}
