"""Decoding next to the denoising: the worker's threads for it, and the film outputs that they feed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from render_farm.errors import RenderFarmError
from render_farm.farm.run.film_task import FilmTask, PreviewNews
from render_farm.farm.worker.busy_clock import BusyClock
from render_farm.farm.worker.films.film_cache import CachedFilm
from render_farm.farm.worker.films.film_output import FilmOutput
from render_farm.farm.worker.films.film_preview import FilmPreview
from render_farm.media.fitting import Fit
from render_farm.media.inputs import load_image
from render_farm.media.provenance import marker_of, xmp_packet
from render_farm.media.whole_video import read_video
from render_farm.storage.meter import StorageMeter
from render_farm.storage.open import open_store

if TYPE_CHECKING:
    from render_farm.engine import Engine

log = logging.getLogger(__name__)


class BackgroundDecoding:
    """One thread decodes, another makes previews. `on_preview` is called in the latter."""

    def __init__(self, clock: BusyClock, meter: StorageMeter, on_preview: Callable[[PreviewNews], None] | None) -> None:
        self._clock = clock
        self._meter = meter
        self._on_preview = on_preview
        self._decoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._previewing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preview")

    def catch_up(self, engine: Engine, task: FilmTask, film: CachedFilm) -> FilmOutput:
        """Queue every segment that the film's decoder does not have yet. Returns at once."""
        output = film.output
        if output is not None and output.is_shared and output.num_segments < len(film.latents):
            output.remove()  # this worker does not have the features to continue where a group was
            output = None
        film.output = output = output or self.new_output(engine, task)
        for latents in film.latents[output.num_segments :]:
            output.push(latents)
        return output

    def new_output(self, engine: Engine, task: FilmTask, *, is_shared: bool = False) -> FilmOutput:
        """An empty output of a film. With `is_shared` a render group decodes it."""
        preview = self._preview(task) if task.previews and task.plan.num_segments > 1 else None
        return FilmOutput(
            engine,
            task.plan,
            self._decoding,
            self._clock,
            _lead_in(task),
            preview,
            limits=task.checks,
            pictures=partial(_pictures, task),
            is_shared=is_shared,
            xmp=_xmp(task),
        )

    def close(self) -> None:
        """Wait for what is queued."""
        self._decoding.shutdown(wait=True)
        self._previewing.shutdown(wait=True)

    def _preview(self, task: FilmTask) -> FilmPreview:
        def report(num_segments: int, num_frames: int, problem: str) -> None:
            if self._on_preview is not None:
                self._on_preview(
                    PreviewNews(
                        output=task.output,
                        run_id=task.run_id,
                        job_id=task.job_id,
                        work_key=task.work_key,
                        num_segments=num_segments,
                        num_frames=num_frames,
                        problem=problem,
                    )
                )

        store = open_store(task.output, meter=self._meter)
        return FilmPreview(store, task.work_key, task.plan, self._previewing, report, xmp=_xmp(task))


def _xmp(task: FilmTask) -> bytes:
    return xmp_packet(marker_of(task.plan)) if task.provenance.mark else b""


def _pictures(task: FilmTask) -> dict[str, np.ndarray]:
    """The pictures that a film is to begin and end with, to compare. One that cannot be read now is left out: its
    segments are stored, and the film is right without it."""
    job, pictures = task.plan.job, dict[str, np.ndarray]()
    has_last = not task.plan.cuts and not task.plan.is_cut_short  # the last image ends the take that it is of
    names = ("image", "last_image") if has_last else ("image",)
    for name in names:
        if name in job.inputs:
            try:
                pictures[name] = load_image(
                    job.inputs[name], width=job.width, height=job.height, fit=cast(Fit, job.fit), limits=task.limits
                )
            except RenderFarmError as error:
                log.warning("film %s is not compared with its %s: %s", task.work_key, name, error)
    return pictures


def _lead_in(task: FilmTask) -> Callable[[], Iterator[np.ndarray]] | None:
    """The frames of the video that a film extends. They come before its own."""
    job = task.plan.job
    if not job.video:
        return None
    return partial(
        read_video,
        job.video,
        width=job.width,
        height=job.height,
        fps=job.fps,
        fit=cast(Fit, job.fit),
        limits=task.limits,
    )
