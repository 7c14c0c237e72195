"""What an output holds already of the films of a manifest, for `render-farm plan --output`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from render_farm.cli.terminal import plural
from render_farm.errors import InputError, InvalidJobError, MediaError, ModelError, StorageError

if TYPE_CHECKING:
    from render_farm.farm.run.settings import Settings
    from render_farm.job import RenderJob
    from render_farm.planning import FilmPlan, ModelSpec
    from render_farm.storage.store import Store

_READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class StoredShare:
    """Of one film."""

    num_segments: int = 0
    """Its first so many segments need not be rendered."""
    is_done: bool = False
    """It is there, unchanged."""

    def line(self, film: FilmPlan) -> str:
        """For people."""
        if self.is_done:
            return "stored: the film is done"
        return f"stored: {self.num_segments} of {plural(film.num_segments, 'segment')}"

    def work_left(self, film: FilmPlan) -> int:
        """Token passes that are still to be computed."""
        from render_farm.planning.cost import segment_token_passes

        first = film.num_segments if self.is_done else self.num_segments
        return sum(segment_token_passes(film, segment) for segment in range(first, film.num_segments))


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
    from render_farm.storage.run_state import StoredRun

    lookup = ExistingOutput(store, StoredRun(), keep_latents=False, replace=True)
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
        for plan, found in zip(plans, lookup.look_up(plans), strict=True):
            job_id, share = plan.job.job_id, StoredShare(num_segments=found.segments_done, is_done=bool(found.done))
            best = shares.get(job_id, StoredShare())
            shares[job_id] = max(best, share, key=lambda one: (one.is_done, one.num_segments))
    return shares, list(notes)


def _read_model(name: str, dtype: str, approximation: str) -> ModelSpec:
    """A model that is on this machine. Nothing is downloaded. ModelError when it is not there, or not whole."""
    from render_farm.engine.conditioning.token_count import local_folder
    from render_farm.engine.weights.checkpoint import read_checkpoint

    folder = local_folder(name)
    if folder is None:
        raise ModelError("it is not on this machine")
    return replace(read_checkpoint(folder, name=name, dtype=dtype).spec, approximation=approximation)
