"""From a manifest to what is left to do: rows are planned, compared with what the output already holds, and sorted
into films to render and rows that need no work (bad ones, and jobs that are done and unchanged)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from render_farm.config import InputLimits
from render_farm.errors import InputError, InvalidJobError, MediaError, ModelError, RenderFarmError, StorageError
from render_farm.farm.film_task import FilmTask
from render_farm.farm.loras import LoraShelf
from render_farm.farm.results import Result
from render_farm.farm.run_spec import FilmEntry
from render_farm.job import RenderJob
from render_farm.manifest.rows import Row
from render_farm.media.inputs import open_image, open_video_tail
from render_farm.planning import FilmPlan, ModelFacts, plan_film, with_inputs_read
from render_farm.planning.cost import segment_token_passes
from render_farm.scheduling.states import JobState
from render_farm.storage.checkpoints import load_film_state
from render_farm.storage.done import read_done
from render_farm.storage.layout import JobKeys
from render_farm.storage.store import Store

_LOOKUPS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A manifest, sorted."""

    entries: tuple[FilmEntry, ...]
    ended: tuple[Result, ...]

    @property
    def num_bad(self) -> int:
        return sum(result.state == JobState.FAILED for result in self.ended)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What is the same for every film of a run."""

    run_id: str
    output: str
    store: Store
    default_model: str
    default_memory: str = "auto"
    keep_latents: bool
    create_only: bool
    group: dict[str, int]
    """Group degrees from the command line, for jobs that name none."""
    limits: InputLimits = InputLimits()
    model_cache: str | None = None
    """Local folder for models that come from a URI."""


def prepare(rows: Iterable[Row], context: RunContext, facts_of: Callable[[str], ModelFacts]) -> PreparedRun:
    """Sort `rows`. `facts_of` looks at a model by its name and raises `ModelError` when it cannot be used; every job
    of such a model fails with that message. Storage errors pass."""
    planner = _Planner(context, facts_of)
    planned = [planner.plan(row) for row in rows]
    films = [item for item in planned if isinstance(item, tuple)]
    with ThreadPoolExecutor(max_workers=_LOOKUPS_AT_ONCE) as pool:
        shelf = LoraShelf(context.limits, context.model_cache)
        looked_up = list(pool.map(lambda film: _look_up(film[0], film[1], context, shelf), films))
    ended = [item for item in planned if isinstance(item, Result)]
    ended += [item for item in looked_up if isinstance(item, Result)]
    return PreparedRun(entries=tuple(item for item in looked_up if isinstance(item, FilmEntry)), ended=tuple(ended))


class _Planner:
    """Plans rows, looking at each model once."""

    def __init__(self, context: RunContext, facts_of: Callable[[str], ModelFacts]) -> None:
        self._context = context
        self._facts_of = facts_of
        self._facts: dict[str, ModelFacts | RenderFarmError] = {}

    def plan(self, row: Row) -> tuple[RenderJob, FilmPlan] | Result:
        if row.job is None:
            error = InvalidJobError(row.problems)
            return _failed(row.job_id or f"row-{row.number}", error, message="; ".join(row.lines))
        job = row.job
        group: dict[str, Any] = {
            name: degree for name, degree in self._context.group.items() if getattr(job, name) is None
        }
        job = replace(job, memory=job.memory or self._context.default_memory, **group)
        try:
            return job, plan_film(job, self._facts_for(job.model or self._context.default_model))
        except InvalidJobError as error:
            lines = "; ".join(f"{row.label}: {problem}" for problem in error.problems)
            return _failed(job.job_id, error, message=lines)
        except ModelError as error:
            return _failed(job.job_id, error, message=f"{row.label}: model: {error}")

    def _facts_for(self, model: str) -> ModelFacts:
        if model not in self._facts:
            try:
                self._facts[model] = self._facts_of(model)
            except ModelError as error:
                self._facts[model] = error
        found = self._facts[model]
        if isinstance(found, RenderFarmError):
            raise found
        return found


def _failed(job_id: str, error: RenderFarmError, *, message: str) -> Result:
    return Result(job_id=job_id, state=JobState.FAILED, error_class=type(error).__name__, message=message)


def _look_up(job: RenderJob, plan: FilmPlan, context: RunContext, shelf: LoraShelf) -> Result | FilmEntry:
    """What the output holds of a film already, once its inputs and LoRAs are known by their content."""
    try:
        plan = shelf.with_loras(_with_inputs(plan, context.limits))
    except (InputError, StorageError, MediaError) as error:
        return _failed(job.job_id, error, message=f"{job.job_id}: {error}")
    store, keys = context.store, JobKeys(job_id=job.job_id)
    done = read_done(store, job.job_id)
    if done is not None and done["render_key"] == plan.render_key and _complete(store, keys, done, context):
        return Result(
            job_id=job.job_id,
            state=JobState.DONE,
            message="was there already, unchanged",
            segments=plan.num_segments,
            frames=done.get("num_frames"),
            attempts=int(done.get("attempts", 0)),
            gpu_s=round(sum(float(segment.get("seconds", 0)) for segment in done.get("segments", ())), 3),
            uri=store.uri(keys.video),
            sha256=done.get("sha256"),
            seam_score=done.get("seam_score"),
        )
    task = FilmTask(
        run_id=context.run_id,
        output=context.output,
        model=plan.facts.name,
        plan=plan,
        keep_latents=context.keep_latents,
        create_only=context.create_only,
        limits=context.limits,
    )
    state = load_film_state(store, task.film)
    return FilmEntry(
        task=task,
        segments_done=min(len(state.segments), plan.num_segments),
        costs=tuple(segment_token_passes(plan, segment) for segment in range(plan.num_segments)),
        priority=plan.job.priority,
        deadline_s=job.deadline.timestamp() if job.deadline else None,
        texts=plan.texts,
    )


def _with_inputs(plan: FilmPlan, limits: InputLimits) -> FilmPlan:
    """The plan with its inputs' digests. They are opened, so that a bad one fails before a worker is taken."""
    job, digests = plan.job, {}
    for name, uri in job.inputs.items():
        if name == "video":
            size: dict[str, Any] = {"width": job.width, "height": job.height, "fit": job.fit}
            digests[name] = open_video_tail(uri, job.overlap_history, **size, limits=limits)[1]
        else:
            digests[name] = open_image(uri, limits)[1]
    return with_inputs_read(plan, digests) if digests else plan


def _complete(store: Store, keys: JobKeys, done: dict, context: RunContext) -> bool:
    """Whether the files that `job.json` names are there, and the latents when they are asked for."""
    files = done.get("files", {})
    if context.keep_latents and "latents.safetensors" not in files:
        return False
    return all(store.exists(keys.final(name)) for name in files)
