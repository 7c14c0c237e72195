"""What an output holds already of the films of a manifest, for `render-farm plan --output`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from render_farm.cli.terminal import plural
from render_farm.errors import InputError, InvalidJobError, MediaError, ModelError, StorageError

if TYPE_CHECKING:
    from render_farm.farm.driver.existing_output import ExistingFilm
    from render_farm.farm.run.settings import Settings
    from render_farm.job import RenderJob
    from render_farm.planning import FilmPlan, ModelSpec
    from render_farm.storage.store import Store

_READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class StoredShare:
    """Of one film."""

    num_segments: int = 0
    """So many of its segments are stored and will be used."""
    num_shared: int = 0
    """So many more are rendered for a film before it in the manifest, or twice in this one."""
    is_done: bool = False
    """It is there, unchanged."""
    left: tuple[int, ...] | None = None
    """The segments that are rendered for it. None: all."""

    def line(self, film: FilmPlan) -> str:
        """For people."""
        if self.is_done:
            return "stored: the film is done"
        shared = f", {self.num_shared} shared with other films" if self.num_shared else ""
        return f"stored: {self.num_segments} of {plural(film.num_segments, 'segment')}{shared}"

    def work_left(self, film: FilmPlan) -> int:
        """Token passes that are still to be computed."""
        from render_farm.planning.cost import segment_token_passes

        left = range(film.num_segments) if self.left is None else self.left
        return sum(segment_token_passes(film, segment) for segment in left)


class _Shares:
    """Films in the order of the manifest, which render what they share once.

    A key says all that a segment is computed from. So what is stored is used wherever a chain of segments can begin: at
    the film's start and after each cut, though an earlier take has to be rendered. Within a take it is used up to the
    first segment that is missing. What is stored behind that continues the latents that were there, and is used only if
    those that are rendered now are the same to the bit, which another kind of GPU does not promise.
    """

    def __init__(self, stored: Collection[str]) -> None:
        self._stored = stored
        self._is_used: dict[str, bool] = {}
        """By the key of a segment that came up: whether it is stored and used. Else it is rendered, once."""

    def share(self, plan: FilmPlan, found: ExistingFilm) -> StoredShare:
        if found.done is not None:
            return StoredShare(is_done=True, left=())
        used, left, before = 0, list[int](), True
        for index, (key, window) in enumerate(zip(plan.segment_keys, plan.windows, strict=True)):
            if index < found.segments_done and key not in self._stored:
                used += 1  # an earlier version stored it, for this film alone
                continue
            if key not in self._is_used:
                self._is_used[key] = key in self._stored and (before or window.starts_take)
                left += [] if self._is_used[key] else [index]
            before = self._is_used[key]
            used += before
        shared = plan.num_segments - used - len(left)
        return StoredShare(num_segments=used, num_shared=shared, left=tuple(left))


def stored_shares(
    jobs: Sequence[RenderJob], store: Store, settings: Settings
) -> tuple[Mapping[str, StoredShare], list[str]]:
    """What there is of each job, by its id, and notes for people. Inputs and LoRAs are read: they count by their
    content. Films count that a GPU or a CPU rendered, whichever has more of them. StorageError of the output passes."""
    from render_farm.engine.dtypes import canonical_dtype
    from render_farm.farm.driver.existing_output import ExistingOutput
    from render_farm.farm.driver.loras import LoraShelf
    from render_farm.farm.driver.prepare import with_contents
    from render_farm.planning import plan_film
    from render_farm.storage.checkpoints import stored_segments
    from render_farm.storage.run_state import StoredRun

    lookup = ExistingOutput(store, StoredRun(), keep_latents=False, replace=True)
    stored = stored_segments(store)
    shelf = LoraShelf(settings.inputs, settings.model_cache)
    shares: dict[str, StoredShare] = {}
    models, notes = sorted({job.model or settings.model for job in jobs}), dict[str, None]()
    for dtype in sorted({canonical_dtype(settings.dtype, device) for device in ("cuda", "cpu")}):
        specs: dict[str, ModelSpec] = {}
        for name in models:
            try:
                specs[name] = _read_model(name, dtype, settings.engine.approximation)
            except ModelError as error:
                notes[f"model {name}: what is stored of its films cannot be told: {error}"] = None

        def planned(job: RenderJob, specs: Mapping[str, ModelSpec] = specs) -> FilmPlan | None:
            spec = specs.get(job.model or settings.model)
            if spec is None:
                return None
            try:
                plan = plan_film(replace(job, memory=job.memory or settings.memory), spec)
                return with_contents(plan, settings.inputs, shelf)
            except (InvalidJobError, InputError, MediaError, ModelError, StorageError):
                return None  # `plan` or `render` says why

        with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
            plans = [plan for plan in pool.map(planned, jobs) if plan is not None]
        films = _Shares(stored)
        for plan, found in zip(plans, lookup.look_up(plans), strict=True):
            share = films.share(plan, found)
            best = shares.get(plan.job.job_id, share)
            shares[plan.job.job_id] = max(best, share, key=lambda one: (one.is_done, one.num_segments))
    return shares, list(notes)


def _read_model(name: str, dtype: str, approximation: str) -> ModelSpec:
    """A model that is on this machine. Nothing is downloaded. ModelError when it is not there, or not whole."""
    from render_farm.engine.conditioning.token_count import local_folder
    from render_farm.engine.weights.checkpoint import read_checkpoint

    folder = local_folder(name)
    if folder is None:
        raise ModelError("it is not on this machine")
    return replace(read_checkpoint(folder, name=name, dtype=dtype).spec, approximation=approximation)
