"""From a manifest to what is left to do: rows are planned, compared with what the output already holds, and sorted
into films to render and rows that need no work (bad ones, and jobs that are done and unchanged)."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from threading import Event
from typing import Any, TypeVar

from render_farm.errors import (
    Cancelled,
    FilmExistsError,
    InputError,
    InvalidJobError,
    MediaError,
    ModelError,
    NotFoundError,
    Problem,
    RenderFarmError,
    StorageError,
    UsageError,
)
from render_farm.farm.driver.aside import as_done_or_none, aside
from render_farm.farm.driver.existing_output import ExistingFilm, ExistingOutput
from render_farm.farm.driver.loras import LoraShelf
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.results import Result
from render_farm.farm.run.scheduled_film import share_of
from render_farm.farm.run.settings import Settings
from render_farm.farm.run.spec import FilmEntry
from render_farm.farm.run.timeouts import Timeouts
from render_farm.manifest.rows import Row, result_ids
from render_farm.media.fetching.places import check_model_uri
from render_farm.media.inputs import open_image, open_video_tail
from render_farm.media.limits import InputLimits
from render_farm.planning import FilmPlan, ModelSpec, plan_film, with_inputs_read
from render_farm.planning.advice import on_picture
from render_farm.planning.cost import TokenPasses
from render_farm.planning.film import with_notes
from render_farm.planning.group_choice import FilmGroups
from render_farm.planning.groups import group_of
from render_farm.planning.prompt_length import LengthOf, estimated_length
from render_farm.scheduling.states import State
from render_farm.storage.patience import SharedPatience
from render_farm.storage.probe import folds_case
from render_farm.storage.run_state import JobRow, StoredRun
from render_farm.storage.store import Store

log = logging.getLogger(__name__)
_INPUTS_AT_ONCE = 16
_LONGEST_MESSAGE = 4_000
Prepared = TypeVar("Prepared")


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A manifest, sorted; or a part of it."""

    entries: tuple[FilmEntry, ...]
    ended: tuple[Result, ...]
    render_keys: dict[str, str] = field(default_factory=dict)
    """Of every film, the ended ones too."""
    num_left: int = 0
    """Rows that are still being prepared."""

    def joined(self, later: PreparedRun) -> PreparedRun:
        """With what was prepared after it."""
        return PreparedRun(
            entries=self.entries + later.entries,
            ended=self.ended + later.ended,
            render_keys=self.render_keys | later.render_keys,
            num_left=later.num_left,
        )

    @property
    def num_bad(self) -> int:
        return sum(result.state == State.FAILED for result in self.ended)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The context that all films of a run share."""

    run_id: str
    output: str
    store: Store
    settings: Settings = field(default_factory=Settings)
    keep_latents: bool
    create_only: bool
    manifest: str | None = None
    """The manifest's name; None for a prompt."""
    replace: bool = False
    """Films that runs of other manifests made are replaced."""
    first_segments: int = 0
    """Only so many segments of each film, as drafts. 0: all."""
    group: dict[str, int]
    """Group degrees from the command line, for jobs that name none."""
    patience_s: float = Timeouts().cluster_patience_s
    """How long to wait for unresponsive stores of inputs."""
    check: Callable[[], None] = lambda: None
    """Called again and again. Raises KeyboardInterrupt when the run is to end."""
    length_of: Callable[[str], LengthOf] = lambda model: estimated_length
    """A model's way of counting the tokens of its prompts."""
    groups_of: Callable[[FilmPlan], FilmGroups] = lambda plan: FilmGroups(group=group_of(plan.job))
    """The render groups that a film has."""
    state: StoredRun = field(default_factory=StoredRun)
    """The run's state when it last ended or was interrupted."""


def prepare(rows: Iterable[Row], context: RunContext, spec_of: Callable[[str], ModelSpec]) -> PreparedRun:
    """All of `rows`. See `Preparation`."""
    return reduce(PreparedRun.joined, Preparation(rows, context, spec_of).batches())


class Preparation:
    """Rows on their way to films. They are planned at once; then their inputs are read, the most urgent first, and what
    is ready can be rendered while others are read."""

    def __init__(self, rows: Iterable[Row], context: RunContext, spec_of: Callable[[str], ModelSpec]) -> None:
        """Plans `rows`. `spec_of` looks at a model by its name and raises `ModelError` when it cannot be used; every
        job of such a model fails with that message. Errors of the output's store pass."""
        self._context = context
        self._over = Event()
        self._patience = SharedPatience(
            context.patience_s,
            stopped=self._over.is_set,
            on_outage=lambda error: log.warning("%s; trying again for %g s", error, context.patience_s),
        )
        self._costs = TokenPasses()
        self._lookup = ExistingOutput(
            context.store,
            context.state,
            keep_latents=context.keep_latents,
            run_id=context.run_id,
            manifest=context.manifest,
            replace=context.replace,
            check=context.check,
        )
        try:
            planned = self._planned(list(rows), spec_of)
        except BaseException:
            self._over.set()
            raise
        self._beginnings = Counter(
            beginning for item in planned if isinstance(item, _PreparedRow) for beginning in item.plan.beginnings
        )
        self._bad = [item for item in planned if isinstance(item, Result)]
        films = [item for item in planned if not isinstance(item, Result)]
        self._films = dict(enumerate(sorted(films, key=_urgency)))
        """Those that are still to be read."""

    def _planned(self, rows: list[Row], spec_of: Callable[[str], ModelSpec]) -> list[_PreparedRow | Result]:
        check = self._context.check
        planner = _Planner(
            self._context, lambda model: aside(lambda: self._patience(lambda: spec_of(model)), check=check)
        )
        names = result_ids(rows)
        folding = any(row.case_twin for row in rows) and folds_case(self._context.store)

        def plan_row(row: Row) -> _PreparedRow | Result:
            check()
            name = names.get(row.number, row.job_id)
            return _guarded(row.label, name, partial(planner.plan, row, name, folding=folding))

        return [plan_row(row) for row in rows]

    @property
    def upcoming(self) -> list[FilmEntry]:
        """The films whose inputs are still to be read, as they will be unless something is wrong with these, or they
        are there already."""
        waiting = [film for film in self._films.values() if self._row(film).state != State.DONE]
        entries = [self._entry(film, ExistingFilm()) for film in waiting]
        return [entry for entry in entries if not isinstance(entry, Result)]

    def batches(self, every_s: float = math.inf) -> Iterator[PreparedRun]:
        """What has become ready, every so many seconds. The last one has no rows left."""
        limits, films = self._context.settings.inputs, tuple(self._films.values())
        shelf = LoraShelf(limits, self._context.settings.model_cache)
        ended, read = list(self._bad), list[_PreparedRow]()
        due_s = time.monotonic() + every_s

        def read_contents(film: _PreparedRow) -> _PreparedRow | Result:
            return _guarded(
                film.label, film.plan.job.job_id, lambda: _with_contents(film, limits, shelf, self._patience)
            )

        try:
            check = self._context.check
            for found in as_done_or_none(read_contents, films, num_threads=_INPUTS_AT_ONCE, check=check):
                if found is not None:
                    number, item = found
                    del self._films[number]
                    if isinstance(item, Result):
                        ended.append(item)
                    else:
                        read.append(item)
                if self._films and (read or ended) and time.monotonic() >= due_s:
                    yield self._looked_up(read, ended)
                    ended, read = [], []
                    due_s = time.monotonic() + every_s
            yield self._looked_up(read, ended)
        finally:
            self._over.set()  # nobody waits for a store any more

    def _looked_up(self, read: Iterable[_PreparedRow], refused: Iterable[Result]) -> PreparedRun:
        """What the output has of the films that were `read`."""
        films = sorted(read, key=lambda film: film.number)
        ended, entries = list(refused), list[FilmEntry]()
        for film, existing in zip(films, self._lookup.look_up([film.plan for film in films]), strict=True):
            job_id, row = film.plan.job.job_id, self._row(film)
            if existing.done is not None:
                ended.append(existing.done)
            elif existing.refused:
                ended.append(_failed(job_id, FilmExistsError(existing.refused), message=existing.refused))
            elif row.taken_out:
                ended.append(_excluded(film.plan, row))
            else:
                entry = self._entry(film, existing)
                if isinstance(entry, Result):
                    ended.append(entry)
                else:
                    entries.append(entry)
        return PreparedRun(
            entries=tuple(entries),
            ended=tuple(ended),
            render_keys={film.plan.job.job_id: film.plan.render_key for film in films},
            num_left=len(self._films),
        )

    def _row(self, film: _PreparedRow) -> JobRow:
        return self._context.state.jobs.get(film.plan.job.job_id, JobRow())

    def _entry(self, film: _PreparedRow, existing: ExistingFilm) -> FilmEntry | Result:
        is_shared = any(self._beginnings[beginning] > 1 for beginning in film.plan.beginnings)
        work = partial(_entry, film, self._row(film), existing, self._context, self._costs, is_shared=is_shared)
        return _guarded(film.label, film.plan.job.job_id, work)


@dataclass(frozen=True, kw_only=True)
class _PreparedRow:
    number: int
    label: str
    """Of the row, for messages."""
    plan: FilmPlan
    deadline_s: float | None
    share: str = ""


def _urgency(film: _PreparedRow) -> tuple[int, float]:
    return -film.plan.job.priority, math.inf if film.deadline_s is None else film.deadline_s


class _Planner:
    """Plans rows, looking at each model once."""

    def __init__(self, context: RunContext, spec_of: Callable[[str], ModelSpec]) -> None:
        self._context = context
        self._spec_of = spec_of
        self._specs: dict[str, ModelSpec | Exception] = {}

    def plan(self, row: Row, name: str, *, folding: bool) -> _PreparedRow | Result:
        """`name` is what the row's result is recorded under; `folding`: the output cannot tell ids apart by case."""
        if row.job is None:
            return _failed(name, InvalidJobError(row.problems), message="; ".join(row.lines))
        if row.case_twin and folding:
            problem = Problem(
                field="job_id",
                message=f"{row.job_id} and {row.case_twin} differ only in case, and the output is on a disk that does "
                "not tell them apart; rename one",
            )
            return _failed(name, InvalidJobError([problem]), message=f"{row.label}: {problem}")
        job, settings = row.job, self._context.settings
        group: dict[str, Any] = {
            name: degree for name, degree in self._context.group.items() if getattr(job, name) is None
        }
        job = replace(job, memory=job.memory or settings.memory, **group)
        try:
            model = job.model or settings.model
            if model != settings.model:  # that one is the operator's choice
                check_model_uri(model, settings.inputs)
            spec = self._checked_spec(model)
            plan = with_notes(
                plan_film(
                    job,
                    spec,
                    length_of=self._context.length_of(model),
                    first_segments=self._context.first_segments,
                ),
                row.warnings,
            )
            return _PreparedRow(
                number=row.number,
                label=row.label,
                plan=plan,
                deadline_s=job.deadline.timestamp() if job.deadline else None,
                share=share_of(settings.scheduling.share_by, job.owner, job.tags),
            )
        except InvalidJobError as error:
            lines = "; ".join(f"{row.label}: {problem}" for problem in error.problems)
            return _failed(job.job_id, error, message=lines)
        except (ModelError, InputError, StorageError) as error:
            return _failed(job.job_id, error, message=f"{row.label}: model: {error}")

    def _checked_spec(self, model: str) -> ModelSpec:
        if model not in self._specs:
            try:
                self._specs[model] = self._spec_of(model)
            except Cancelled:
                raise
            except Exception as error:  # noqa: BLE001  (it is raised again, for each row of the model)
                self._specs[model] = error
        found = self._specs[model]
        if isinstance(found, Exception):
            raise found
        return found


def _guarded(label: str, job_id: str, work: Callable[[], Prepared]) -> Prepared | Result:
    """What `work` makes of one row. An exception that nobody foresaw fails that row, and never the run. What concerns
    every row passes: mistakes in the command (`UsageError`), and Ctrl-C."""
    try:
        return work()
    except Cancelled:
        raise
    except Exception as error:
        if isinstance(error, UsageError) and not isinstance(error, NotFoundError):
            raise
        log.exception("%s: cannot be prepared", label)
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return Result(job_id=job_id, state=State.FAILED, error_class=type(error).__name__, message=f"{label}: {what}")


def _failed(job_id: str, error: RenderFarmError, *, message: str) -> Result:
    return Result(
        job_id=job_id, state=State.FAILED, error_class=type(error).__name__, message=message[:_LONGEST_MESSAGE]
    )


def _excluded(plan: FilmPlan, row: JobRow) -> Result:
    message = row.message or "cancelled by name"
    return Result(job_id=plan.job.job_id, state=State.CANCELLED, message=message, segments=plan.num_segments)


def _entry(
    film: _PreparedRow,
    row: JobRow,
    existing: ExistingFilm,
    context: RunContext,
    costs: TokenPasses,
    *,
    is_shared: bool,
) -> FilmEntry:
    plan, groups, settings = film.plan, context.groups_of(film.plan), context.settings
    task = FilmTask(
        run_id=context.run_id,
        output=context.output,
        model=plan.spec.name,
        model_is_named=plan.spec.name != settings.model,
        plan=plan,
        keep_latents=context.keep_latents,
        create_only=context.create_only,
        limits=settings.inputs,
        checks=settings.checks,
        timeouts=settings.timeouts,
        group_options=settings.group,
        previews=settings.previews,
        provenance=settings.provenance,
        hooks=settings.hooks,
    )
    return FilmEntry(
        task=task.continued(row.rejected or ()) if row.render_key == plan.render_key else task,
        segments_done=existing.segments_done,
        costs=costs.of(plan),
        priority=plan.job.priority if row.priority is None else row.priority,
        deadline_s=film.deadline_s,
        share=film.share,
        texts=plan.texts,
        group=groups.group,
        joined=groups.joined,
        joined_speeds=groups.joined_speeds,
        segment_keys=plan.segment_keys if is_shared else (),
    )


def _with_contents(
    film: _PreparedRow, limits: InputLimits, shelf: LoraShelf, patience: SharedPatience
) -> _PreparedRow | Result:
    """The film once its inputs and LoRAs are known by their content. They are opened, so that a bad one fails before a
    worker is taken; a store that does not answer is waited for."""
    try:
        return patience(lambda: _read(film, limits, shelf))
    except (InputError, StorageError, MediaError) as error:
        return _failed(film.plan.job.job_id, error, message=str(error))


def _read(film: _PreparedRow, limits: InputLimits, shelf: LoraShelf) -> _PreparedRow:
    return replace(film, plan=with_contents(film.plan, limits, shelf))


def with_contents(plan: FilmPlan, limits: InputLimits, shelf: LoraShelf) -> FilmPlan:
    """The plan once the job's inputs and LoRAs are known by their content. InputError, MediaError and StorageError for
    one that cannot be used."""
    job, digests, notes = plan.job, {}, []
    for name, uri in job.inputs.items():
        if name == "video":
            size: dict[str, Any] = {"width": job.width, "height": job.height, "fit": job.fit}
            opened = open_video_tail(uri, job.overlap_history, **size, fps=job.fps, limits=limits, keep_pixels=False)
        else:
            opened = open_image(uri, limits, keep_pixels=False)
        digests[name] = opened.sha256
        notes += [f"{name}: {note}" for note in opened.notes]
        notes += on_picture(job, name, *opened.size) if opened.size else ()
    return shelf.with_loras(with_inputs_read(plan, digests, notes) if digests else plan)
