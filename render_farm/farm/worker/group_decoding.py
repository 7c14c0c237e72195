"""Decoding a film with the workers that render it, between two of its segments. Each decodes some rows of the picture.

Every worker of the group keeps the features of its rows. So the film continues where it was as long as each worker has
the same rank in a group of the same size. Another group starts again from the film's first latent frame. A film that
one worker already decodes stays with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from render_farm.errors import ModelError
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.films.film_output import FilmOutput
from render_farm.planning.decoding import decodes_together
from render_farm.planning.group_cost import machine_of

if TYPE_CHECKING:
    from render_farm.engine import Engine, StreamingDecoder
    from render_farm.parallel import ParallelGroup
    from render_farm.parallel.decoding import RowDecoder


@dataclass(kw_only=True)
class _FilmDecoding:
    """The part of one rank in decoding a film."""

    pixels_key: str
    rows: RowDecoder
    stream: StreamingDecoder
    num_segments: int = 0

    def continues_in(self, group: ParallelGroup, pixels_key: str, num_segments: int) -> bool:
        """Whether `group` can decode the segments after the first `num_segments` of a film."""
        here = (self.pixels_key, self.num_segments, self.rows.rank, self.rows.num_ranks)
        return here == (pixels_key, num_segments, group.rank, group.num_ranks)


class SharedDecoding:
    """A worker's part in decoding: the features of one film, until the worker renders another one."""

    def __init__(self) -> None:
        self._film: _FilmDecoding | None = None

    def keep_only(self, pixels_key: str) -> None:
        """Free the features of another film."""
        if self._film is not None and self._film.pixels_key != pixels_key:
            self._film = None

    def decode(
        self,
        group: ParallelGroup,
        engine: Engine,
        task: FilmTask,
        segments: Sequence[np.ndarray],
        output: FilmOutput | None,
        new_output: Callable[[], FilmOutput],
    ) -> FilmOutput | None:
        """Decode the last of `segments` (kept latents, 1 C T H W float32) with the group, where that pays. Every rank
        makes this call with the film's segments so far.

        On rank 0 `output` is the film's. Returns the same one, or a new one for all of `segments`.
        """
        leads, num_before = group.rank == 0, len(segments) - 1
        film, self._film = self._film, None  # an exchange that fails leaves nothing that could continue
        is_free = not leads or output is None or output.is_shared
        if not group.all_agree(is_free and _pays(group, engine, task)):
            return output
        can_continue = film is not None and film.continues_in(group, task.pixels_key, num_before)
        if leads:
            can_continue = can_continue and output is not None and output.num_segments == num_before
        if not group.all_agree(can_continue) or film is None:
            film = _start(group, engine, task)
            if output is not None:
                output.remove()
            output = new_output() if leads else None
        for latents in segments[film.num_segments :]:
            with film.rows.joined(group):
                _decode(film.stream, latents, output)
            film.num_segments += 1
        self._film = film
        return output


def _pays(group: ParallelGroup, engine: Engine, task: FilmTask) -> bool:
    from render_farm.engine.weights.part_sizes import read_sizes

    try:
        vae = read_sizes(engine.checkpoint.folder).vae
    except ModelError:
        return False
    machine = machine_of(task.group_options, engine.device.type)
    return decodes_together(task.plan, vae, group.shape, machine, asked=task.group_options.decode)


def _start(group: ParallelGroup, engine: Engine, task: FilmTask) -> _FilmDecoding:
    from render_farm.parallel.decoding import RowDecoder

    rows = RowDecoder(engine.vae, rank=group.rank, num_ranks=group.num_ranks)
    return _FilmDecoding(pixels_key=task.pixels_key, rows=rows, stream=engine.decoder(task.plan, rows))


def _decode(stream: StreamingDecoder, latents: np.ndarray, output: FilmOutput | None) -> None:
    import torch

    if output is not None:
        output.start_segment()
    for latent in torch.split(torch.from_numpy(latents), 1, dim=2):
        started = time.monotonic()
        frames = list(stream.push(latent))
        if output is not None:
            output.take(frames, decode_s=time.monotonic() - started)
    if output is not None:
        output.end_segment()
