"""The preview of one film in the making: a part for every finished segment but the last, stored beside its checkpoints.

    preview.m3u8    the playlist, replaced when a segment is done: it names only what is there
    init.mp4        what all parts begin with
    0000.m4s ...    one part per segment, written once
    preview.mp4     all parts so far in one file. Object stores cannot append, so it is written again when it has grown
                    by a quarter. All its versions together are at most five times the last one.
    sheet.jpg       nine frames so far

Its own thread makes it from frames that the film's decoder makes anyway. Previews never block rendering. One that fails
or falls behind ends, and the film goes on without it. The last segment has no part, because its film is about to be
published. A film that moves to another worker continues with the parts that are stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from render_farm.errors import NotFoundError, RenderFarmError
from render_farm.media.preview import (
    SHEET_FRAMES,
    contact_sheet,
    encode_part,
    playlist,
    read_playlist,
    small_frame,
)
from render_farm.planning import FilmPlan
from render_farm.storage.layout import (
    PREVIEW_INIT,
    PREVIEW_LIST,
    PREVIEW_SHEET,
    PREVIEW_VIDEO,
    FilmKeys,
    preview_part,
)
from render_farm.storage.store import Store

_MOST_WAITING_BYTES = 256 << 20
"""Limit for the frames that wait for their part. More means that the thread cannot keep pace."""
_GROWTH = 1.25


class FilmPreview:
    """See the module. `start`, `add` and `end` are called by the decoding thread and return at once. A worker that is
    closed waits for what is being written."""

    def __init__(
        self,
        store: Store,
        work_key: str,
        plan: FilmPlan,
        thread: ThreadPoolExecutor,
        report: Callable[[int, int, str], None],
        *,
        xmp: bytes = b"",
    ) -> None:
        """`thread` runs one task at a time. `report` gets the segments and frames that can be watched, and the problem
        that ended the preview. Its files carry the packet `xmp`."""
        self._xmp = xmp
        self._store = store
        self._keys = FilmKeys(film=work_key)
        self._plan = plan
        self._thread = thread
        self._report = report
        self._over = threading.Event()
        self._segment = 0
        self._frames: list[np.ndarray] = []
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._is_loaded = False
        self._init = b""
        self._parts: list[bytes] = []
        self._lengths: list[tuple[str, float]] = []
        self._num_frames = 0
        self._num_joined_bytes = 0
        self._samples = _Samples()

    # --- called by the decoding thread ---

    def start(self, segment: int) -> None:
        """The frames of `segment` follow."""
        self._segment, self._frames = segment, []

    def add(self, frame: np.ndarray) -> None:
        """Take a frame (H W 3 uint8) of the film."""
        if not self._over.is_set() and self._segment < self._plan.num_segments - 1:
            self._frames.append(small_frame(frame))

    def end(self) -> None:
        """The segment is complete. Its part is made while the next one is decoded."""
        frames, self._frames = self._frames, []
        if self._over.is_set() or not frames:
            return
        with self._lock:
            self._waiting_bytes += sum(frame.nbytes for frame in frames)
            is_behind = self._waiting_bytes > _MOST_WAITING_BYTES
        if is_behind:
            self._stop("making them takes longer than rendering")
            return
        self._submit(self._make, self._segment, frames)

    def finish(self) -> None:
        """The film is complete. The playlist says so, and players stop asking for more."""
        if not self._over.is_set():
            self._submit(self._end_playlist)

    def close(self) -> None:
        """Make no more of it."""
        self._over.set()

    def _submit(self, work: Callable[..., None], *values: Any) -> None:
        with suppress(RuntimeError):  # the worker is being closed
            self._thread.submit(work, *values)

    # --- in the preview's thread ---

    def _make(self, segment: int, frames: list[np.ndarray]) -> None:
        try:
            if self._over.is_set():
                return
            self._load()
            self._samples.add(frames)
            if segment < len(self._parts):
                return  # made by the worker that had the film before
            if segment > len(self._parts):
                self._stop(f"its preview has no part for segment {len(self._parts) + 1}")
                return
            self._append(segment, frames)
        except RenderFarmError as error:
            self._stop(str(error))
        finally:
            with self._lock:
                self._waiting_bytes -= sum(frame.nbytes for frame in frames)

    def _load(self) -> None:
        """Read the parts that are stored, as far as they are complete."""
        if self._is_loaded:
            return
        self._is_loaded = True
        try:
            listed = read_playlist(self._store.read_bytes(self._keys.preview(PREVIEW_LIST)).decode(errors="replace"))
            self._init = self._store.read_bytes(self._keys.preview(PREVIEW_INIT))
            for number, (name, seconds) in enumerate(listed):
                if name != preview_part(number):
                    break
                self._parts.append(self._store.read_bytes(self._keys.preview(name)))
                self._lengths.append((name, seconds))
                self._num_frames += round(seconds * self._plan.job.fps)
        except NotFoundError:
            pass  # nothing is stored, or a part is gone and made again

    def _append(self, segment: int, frames: list[np.ndarray]) -> None:
        fps, name = self._plan.job.fps, preview_part(segment)
        part = encode_part(frames, fps=fps, first_frame=self._num_frames, number=segment, xmp=self._xmp)
        if self._init not in (b"", part.init):
            self._stop("another version of ffmpeg or of this program started it")
            return
        self._store.write_bytes(self._keys.preview(name), part.media)
        if not self._init:
            self._store.write_bytes(self._keys.preview(PREVIEW_INIT), part.init)
            self._init = part.init
        self._parts.append(part.media)
        self._lengths.append((name, len(frames) / fps))
        self._num_frames += len(frames)
        self._write_playlist(ended=False)
        num_bytes = len(self._init) + sum(map(len, self._parts))
        if num_bytes >= self._num_joined_bytes * _GROWTH:
            self._store.write_bytes(self._keys.preview(PREVIEW_VIDEO), b"".join([self._init, *self._parts]))
            self._num_joined_bytes = num_bytes
        self._store.write_bytes(self._keys.preview(PREVIEW_SHEET), contact_sheet(self._samples.frames, xmp=self._xmp))
        self._report(len(self._parts), self._num_frames, "")

    def _write_playlist(self, *, ended: bool) -> None:
        factor = self._plan.spec.temporal_factor
        longest = max(window.num_kept_frames for window in self._plan.windows) * factor / self._plan.job.fps
        text = playlist(self._lengths, init=PREVIEW_INIT, longest_s=longest, ended=ended)
        self._store.write_bytes(self._keys.preview(PREVIEW_LIST), text.encode())

    def _end_playlist(self) -> None:
        try:
            if self._parts:
                self._write_playlist(ended=True)
        except RenderFarmError as error:
            self._stop(str(error))

    def _stop(self, problem: str) -> None:
        if not self._over.is_set():
            self._over.set()
            self._report(len(self._parts), self._num_frames, problem)


class _Samples:
    """Frames at even distances of what was seen so far, few of them however long it is."""

    def __init__(self) -> None:
        self._step = 1
        self._num_seen = 0
        self.frames: list[np.ndarray] = []

    def add(self, frames: list[np.ndarray]) -> None:
        for frame in frames:
            if self._num_seen % self._step == 0:
                self.frames.append(frame)
                if len(self.frames) == 4 * SHEET_FRAMES:
                    self.frames, self._step = self.frames[::2], self._step * 2
            self._num_seen += 1
