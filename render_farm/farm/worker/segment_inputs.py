"""The inputs of a segment's denoising: the latents before it, its prompts, and the film's inputs as latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from render_farm.errors import InputError
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.farm.worker.films.film_cache import CachedFilm
from render_farm.storage.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from render_farm.engine import Engine
    from render_farm.engine.conditioning.conditioning import Conditioning

_TEXTS_KEPT = 64


def history_of(film: CachedFilm, task: FilmTask, segment: int) -> Tensor | None:
    """The last latents before the segment, as many as its window takes (1 C T H W). None for the first."""
    import torch

    num_frames = task.plan.windows[segment].num_history_frames
    if not num_frames:
        return None
    needed: list[np.ndarray] = []
    for latents in reversed(film.latents[:segment]):
        needed.insert(0, latents)
        if sum(part.shape[2] for part in needed) >= num_frames:
            break
    return torch.from_numpy(np.concatenate(needed, axis=2)[:, :, -num_frames:].copy())


def first_of_take(film: CachedFilm, task: FilmTask, segment: int) -> Tensor | None:
    """The first segment of a segment's take (1 C T H W), where the segment moves toward it."""
    import torch

    if not task.plan.drift_share(segment):
        return None
    return torch.from_numpy(film.latents[task.plan.windows[segment].take_start].copy())


def conditioning_of(engine: Engine, task: FilmTask, film: CachedFilm, segment: int) -> Conditioning | None:
    """The inputs of the segment's take as latents, where the segment needs them."""
    window = task.plan.windows[segment]
    if not window.needs_inputs:
        return None
    if window.take_start not in film.conditioning:
        from render_farm.engine.conditioning.inputs import read_inputs

        take, _ = task.plan.take_of(segment)
        read = read_inputs(take, task.limits)
        if read.digests != dict(take.job.input_digests):
            raise InputError(
                f"an input of job {task.job_id} has changed since the run began", advice="run the command again"
            )
        film.conditioning[window.take_start] = engine.encode_conditioning(take, read.pixels)
    return film.conditioning[window.take_start]


class KnownTexts:
    """Embeddings of prompts that one model's films needed recently."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], Tensor] = {}

    def embeddings(self, store: Store, task: FilmTask, fingerprint: str, segment: int) -> dict[str, Tensor]:
        """The embeddings of the segment's prompt, and of the negative one where there is guidance."""
        texts = [task.plan.job.prompt_of(segment)]
        if task.plan.job.guided:
            texts.append(task.plan.job.negative_prompt)
        stored = EmbeddingStore(store, task.run_id, fingerprint)
        if len(self._texts) > _TEXTS_KEPT:
            self._texts = {}
        found = {}
        for text in texts:
            known = self._texts.get((task.run_id, text))
            found[text] = stored.load(text) if known is None else known
            self._texts[task.run_id, text] = found[text]
        return found
