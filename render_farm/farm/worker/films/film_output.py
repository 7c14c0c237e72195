"""From latents to files: the streaming decoder and the MP4 writer of one film, fed segment by segment.

Decoding runs on the worker's one decoding thread, while the next segment is denoised. It always starts from the film's
first latent frame, because the VAE's feature cache lives here and is never stored.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render_farm.check_mode import CheckAction
from render_farm.errors import MediaError
from render_farm.farm.worker.busy_clock import BusyClock
from render_farm.farm.worker.films.film_preview import FilmPreview
from render_farm.media.check_limits import CheckLimits
from render_farm.media.checks import CheckedFilm, PictureChecks
from render_farm.media.mp4 import Mp4Writer
from render_farm.media.poster import write_poster
from render_farm.media.seam_score import Seam, SeamMeter
from render_farm.storage.layout import LATENTS, POSTER, VIDEO
from render_farm.storage.scratch import make_folder

if TYPE_CHECKING:
    from render_farm.engine import Engine
    from render_farm.planning import FilmPlan

_LIMITS = CheckLimits()


@dataclass(frozen=True, kw_only=True)
class RenderedFilm:
    """The finished files of a film, by final name."""

    files: dict[str, Path]
    num_frames: int
    decode_s: float
    phases: tuple[tuple[str, float], ...] = ()
    """Seconds of `decode` and `encode` of each segment."""
    seams: tuple[Seam, ...] = ()
    checked: CheckedFilm = field(default_factory=CheckedFilm)

    @property
    def findings(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(map(str, self.checked.findings))


class FilmOutput:
    """The files of one film, in their own temporary folder. `finish` when it is complete, then `remove`."""

    def __init__(
        self,
        engine: Engine,
        plan: FilmPlan,
        decoding_thread: ThreadPoolExecutor,
        clock: BusyClock,
        lead_in: Callable[[], Iterator[np.ndarray]] | None = None,
        preview: FilmPreview | None = None,
        *,
        limits: CheckLimits = _LIMITS,
        pictures: Callable[[], Mapping[str, np.ndarray]] = dict,
        is_shared: bool = False,
        xmp: bytes = b"",
    ) -> None:
        """`lead_in` makes the frames (H W 3 uint8) that precede the film's own: the video that it extends. `preview`
        and the checks get only the film's own. `pictures` reads its `image` and `last_image`, as far as it has them.
        With `is_shared` a render group decodes the film, and `take` gets its frames. Video and poster carry the packet
        `xmp`."""
        self._xmp = xmp
        self._preview = preview
        self._plan = plan
        self._pictures = pictures
        self._poster_at = plan.num_frames // 2
        self._clock = clock
        self._thread = decoding_thread
        self._folder = make_folder()
        self.is_shared = is_shared
        job = plan.job
        try:
            self._decoder = None if is_shared else engine.decoder(plan)
            self._writer = Mp4Writer(self._folder / VIDEO, job.width, job.height, job.fps, job.quality, xmp=xmp)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)  # nobody could call `remove`
            raise
        self._seams = SeamMeter()
        self._checks = PictureChecks(limits)
        self._pending: list[Future[None]] = []
        self._closed = False
        self.num_segments = 0
        """Segments taken so far."""
        self.decode_s = 0.0
        """Decoding, encoding and writing so far."""
        self._phases: list[tuple[str, float]] = []
        self.on_frame: Callable[[], None] | None = None
        """Called after every frame that is written."""
        self._num_expected = plan.num_frames - plan.num_repeated_frames
        if lead_in is not None:
            self._pending.append(self._thread.submit(self._write_lead_in, lead_in))

    def push(self, latents: np.ndarray) -> None:
        """Take the next segment's kept latents (1 C T H W float32); returns at once."""
        self._pending.append(self._thread.submit(self._decode, latents, self.num_segments))
        self.num_segments += 1

    def start_segment(self) -> None:
        """The frames that are taken next are the next segment's."""
        self._pending.append(self._thread.submit(self._start, self.num_segments))
        self.num_segments += 1

    def take(self, frames: Sequence[np.ndarray], *, decode_s: float) -> None:
        """Write frames (H W 3 uint8) that a group decoded in `decode_s`; returns at once."""
        self._pending.append(self._thread.submit(self._write_decoded, frames, decode_s))

    def end_segment(self) -> None:
        """All frames of the segment were taken."""
        self._pending.append(self._thread.submit(self._end))

    def finish(self, latents: Iterable[np.ndarray] | None = None) -> RenderedFilm:
        """Wait for the decoder and close the video. `latents` of all segments are stored, too, when given.

        Raises what decoding or writing raised.
        """
        for future in self._pending:
            future.result()
        if self._writer.num_frames != self._num_expected:
            raise MediaError(f"{self._writer.num_frames} frames were written where {self._num_expected} are planned")
        self._writer.close()
        if self._preview is not None:
            self._preview.finish()
        seams = self._seams.seams()
        files = {VIDEO: self._folder / VIDEO, POSTER: self._folder / POSTER}
        if latents is not None:
            files[LATENTS] = self._folder / LATENTS
            _save_latents(np.concatenate(list(latents), axis=2), files[LATENTS])
        return RenderedFilm(
            files=files,
            num_frames=self._writer.num_frames,
            decode_s=round(self.decode_s, 3),
            phases=tuple(self._phases),
            seams=seams,
            checked=self._checked(seams),
        )

    def _checked(self, seams: tuple[Seam, ...]) -> CheckedFilm:
        if self._plan.job.checks == CheckAction.OFF:
            return replace(self._checks.checked(seams), findings=())
        return self._checks.checked(seams, **self._pictures())

    def remove(self) -> None:
        """Drop the remaining work and remove the temporary folder."""
        self._closed = True
        if self._preview is not None:
            self._preview.close()
        for future in self._pending:
            future.cancel()
        self._thread.submit(self._clean)

    def _clean(self) -> None:
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write_lead_in(self, make_frames: Callable[[], Iterator[np.ndarray]]) -> None:
        self._write_all(make_frames, is_lead_in=True)
        self._num_expected += self._writer.num_frames

    def _decode(self, latents: np.ndarray, segment: int) -> None:
        import torch

        decoder = self._decoder
        assert decoder is not None, "a group decodes this film"
        self._start(segment)
        self._write_all(lambda: decoder.push(torch.from_numpy(latents)))
        self._end()

    def _start(self, segment: int) -> None:
        self._seams.begin(segment)
        self._checks.begin(starts_scene=self._plan.starts_scene(segment))
        if self._preview is not None:
            self._preview.start(segment)

    def _end(self) -> None:
        if self._preview is not None:
            self._preview.end()

    def _write_decoded(self, frames: Sequence[np.ndarray], decode_s: float) -> None:
        self.decode_s += decode_s
        self._phases.append(("decode", decode_s))
        self._write_all(lambda: iter(frames))

    def _write_all(self, make_frames: Callable[[], Iterator[np.ndarray]], *, is_lead_in: bool = False) -> None:
        begun = started = time.monotonic()
        decode_s = encode_s = 0.0
        with self._clock.busy():
            for frame in make_frames():
                decoded = time.monotonic()
                decode_s += decoded - started
                if self._closed:
                    raise MediaError("the film was dropped while it was being decoded")
                if self._writer.num_frames == self._poster_at:
                    write_poster(frame, self._folder / POSTER, xmp=self._xmp)
                self._writer.append(frame)
                self._seams.add(frame)
                if is_lead_in:
                    self._checks.skip()
                else:
                    self._checks.add(frame)
                if self._preview is not None and not is_lead_in:
                    self._preview.add(frame)
                if self.on_frame is not None:
                    self.on_frame()
                started = time.monotonic()
                encode_s += started - decoded
        self.decode_s += time.monotonic() - begun
        self._phases += [("decode", decode_s), ("encode", encode_s)]


def _save_latents(latents: np.ndarray, path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"latents": np.ascontiguousarray(latents)}, path)
