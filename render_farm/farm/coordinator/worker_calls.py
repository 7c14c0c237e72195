"""Calls of the workers: work is handed to a worker, and its answer comes back as an event of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from render_farm.errors import Fault, FilmRejectedError, FindingsError, StorageError
from render_farm.farm.coordinator.failures import classify
from render_farm.farm.coordinator.group_calls import LEAVE_S, GroupCalls
from render_farm.farm.coordinator.hang_watch import HangWatch
from render_farm.farm.coordinator.kept_groups import KeptGroups
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.coordinator.worker_pool import WorkerPool
from render_farm.farm.ray_cluster.deaths import is_death
from render_farm.farm.ray_cluster.task_names import TaskNames, finish_name, segment_name
from render_farm.farm.run.film_task import FilmTask, SegmentReport
from render_farm.farm.run.memory_steps import with_memory_fallback
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.farm.run.spec import FilmEntry
from render_farm.farm.worker.embeddings import MissingEmbeddingError
from render_farm.planning.groups import GroupShape
from render_farm.scheduling import events as ev
from render_farm.scheduling.retry import Failure, rule_for
from render_farm.scheduling.states import State


class WorkerCalls:
    """Calls of workers. `apply` takes events, and the other callbacks handle what is not the machine's."""

    def __init__(
        self,
        pool: WorkerPool,
        runs: Mapping[str, OwnedRun],
        watch: HangWatch,
        *,
        group_timeout_s: float,
        metrics: FarmMetrics,
        names: TaskNames,
        apply: Callable[[ev.Event], None],
        on_worker_ended: Callable[[str, BaseException], None],
        on_prompt_missing: Callable[[str, str], None],
        on_unfit: Callable[[str, BaseException], None],
    ) -> None:
        self._pool = pool
        self._runs = runs
        self._watch = watch
        self._group_timeout_s = group_timeout_s
        self._kept_groups = KeptGroups()
        self._metrics = metrics
        self._names = names
        self._apply = apply
        self._on_worker_ended = on_worker_ended
        self._on_prompt_missing = on_prompt_missing
        self._on_unfit = on_unfit

    async def render(self, action: ev.RenderSegment) -> None:
        """Have a segment rendered."""
        key, job_id = action.film
        progress = self._runs[key].progress
        entry = progress.films[job_id].entry
        task, shape = self._with_memory_fallback(action, entry), entry.group_of_size(1 + len(action.helpers))
        call_id = self._watch.begin(
            action.worker,
            action.film,
            action.segment,
            time.monotonic(),
            model=task.model,
            step_cost=entry.step_cost(action.segment),
        )
        progress.started(job_id, action.worker, "denoise", helpers=action.helpers)
        progress.log.add(
            f"segment {action.segment + 1}/{task.plan.num_segments} on {action.worker}"
            + (f" with {', '.join(action.helpers)} ({shape})" if action.helpers else "")
            + (f", attempt {action.attempt}" if action.attempt > 1 else ""),
            job_id=job_id,
            level="debug",
        )
        if action.helpers:
            await self._render_together(action, call_id, task, shape)
            return
        self._kept_groups.end(action.worker)
        report = await self._call(
            action, call_id, "render_segment", _name_of(action, task), task, action.segment, call_id
        )
        if report is not None:
            self._rendered(action, report)

    def _rendered(self, action: ev.RenderSegment, report: SegmentReport, staying: tuple[str, ...] = ()) -> None:
        key, job_id = action.film
        if key in self._runs:
            progress = self._runs[key].progress
            progress.engine_time(action.worker, report.engine_s)
            self._metrics.rendered(report)
            for note in report.notes:
                progress.log.add(f"{action.worker}: {note}", job_id=job_id)
            if not State(progress.films[job_id].result.state).ended:
                num_workers = 1 + len(action.helpers)
                progress.segment_done(job_id, report.seconds, num_workers=num_workers, is_found=report.is_found)
        self._apply(
            ev.SegmentDone(
                worker=action.worker,
                film=action.film,
                segment=action.segment,
                staying=staying,
                seconds=None if report.is_found else report.seconds,
                loading_s=report.loading_s,
            )
        )

    async def finish(self, action: ev.FinishFilm) -> None:
        """Have a film decoded, encoded and published."""
        key, job_id = action.film
        progress = self._runs[key].progress
        call_id = self._watch.begin(action.worker, action.film, None, time.monotonic())
        progress.started(job_id, action.worker, "publish")
        entry = progress.films[job_id].entry
        task = self._with_memory_fallback(action, entry)
        report = await self._call(action, call_id, "finish_film", finish_name(job_id), task, action.attempt, call_id)
        if report is None:
            return
        progress.engine_time(action.worker, report.engine_s)
        self._metrics.published(report, fps=task.plan.job.fps)
        progress.published(job_id, report)
        self._apply(ev.FilmPublished(worker=action.worker, film=action.film))

    def _with_memory_fallback(self, action: ev.RenderSegment | ev.FinishFilm, entry: FilmEntry) -> FilmTask:
        plan = with_memory_fallback(
            entry.task.plan, action.fallback_level, self._pool.device, in_groups=entry.in_groups
        )
        return replace(entry.task, plan=plan)

    def stop(self, action: ev.StopWork) -> None:
        """Have a worker drop what it does for a film at its next step or frame."""
        if self._pool.has(action.worker):
            for call_id in self._watch.calls_of(action.worker, action.film):
                self._pool.handle(action.worker).stop.remote(call_id, action.keep_steps)

    def stepped(self, call_id: int, step: int, num_steps: int) -> None:
        """A segment made a step."""
        call = self._watch.stepped(call_id, step, num_steps, time.monotonic())
        if call is not None and call.segment is not None and call.film.run in self._runs:
            self._runs[call.film.run].progress.stepped(call.film.job_id, call.segment, step, num_steps)

    async def _call(
        self, action: ev.RenderSegment | ev.FinishFilm, call_id: int, method: str, name: str, *arguments: Any
    ) -> Any | None:
        """The worker's answer, or None when it failed, which the machine then knows."""
        try:
            if not self._pool.has(action.worker):
                return None  # it ended in this moment; the machine is told so by whoever noticed
            called = getattr(self._pool.handle(action.worker), method)
            return await self._names.named(called, name).remote(*arguments)
        except Exception as error:  # noqa: BLE001  (any exception of a worker is classified, none passes unseen)
            if is_death(error):
                self._on_worker_ended(action.worker, error)
            else:
                await self._failed(action.worker, action.film, error)
        finally:
            self._watch.end(call_id)
        return None

    async def _render_together(self, action: ev.RenderSegment, call_id: int, task: FilmTask, shape: GroupShape) -> None:
        """Have a segment rendered by a group."""
        leader, timeout_s, workers = action.worker, self._group_timeout_s, (action.worker, *action.helpers)
        progress = self._runs[action.film.run].progress
        report: SegmentReport | None = None
        failed: BaseException | None = None
        group = GroupCalls(
            self._pool,
            leader,
            action.helpers,
            on_worker_ended=self._on_worker_ended,
            on_left=lambda name: self._apply(ev.HelperLeft(worker=name, leader=leader)),
            on_engine_time=progress.engine_time,
            warn=lambda text: progress.log.add(text, job_id=action.film.job_id, level="warning"),
        )
        try:
            if self._pool.has(leader):
                handle = self._pool.handle(leader)
                seat = await self._kept_groups.seat(
                    workers, shape, timeout_s=timeout_s, open_group=handle.open_group.remote
                )
                group.call(seat, task, action.segment, call_id)
                called = self._names.named(handle.render_segment, _name_of(action, task))
                report = await called.remote(task, action.segment, call_id, seat)
        except Exception as error:  # noqa: BLE001  (any exception of a worker is classified, none passes unseen)
            failed = error
        had_met = self._watch.has_stepped(call_id)
        self._watch.end(call_id)
        loading_s = task.timeouts.first_step_floor_s
        staying = await group.over(LEAVE_S if had_met else loading_s + timeout_s, failed=failed is not None)
        if report is not None:
            if group.went_well and not report.is_found:
                self._kept_groups.keep(workers, seat)
            self._rendered(action, report, staying)
        elif failed is not None:
            blamed, cause = group.cause(failed)
            if is_death(cause) and not blamed:
                self._on_worker_ended(leader, cause)
            else:
                await self._failed(leader, action.film, cause, blamed, staying, group.ending(failed))
        if not self._pool.has(leader):
            for name in action.helpers:
                if name not in staying:
                    self._apply(ev.HelperLeft(worker=name, leader=leader))

    async def _failed(
        self,
        worker: str,
        film: ev.JobKey,
        error: BaseException,
        blamed: str = "",
        staying: tuple[str, ...] = (),
        ending: tuple[str, ...] = (),
    ) -> None:
        cause = getattr(error, "cause", None) or error
        behind = getattr(cause, "segments_done", None)
        run = self._runs.get(film.run)
        if behind is not None and run is not None:
            run.progress.roll_back(film.job_id, str(cause), behind)
        if isinstance(cause, FindingsError) and run is not None:
            seconds = cause.seconds if isinstance(cause, FilmRejectedError) else None
            run.progress.rejected(film.job_id, cause.findings, seconds)
            self._metrics.found(cause.findings)
        if isinstance(cause, MissingEmbeddingError) and run is not None:
            self._on_prompt_missing(film.run, run.progress.films[film.job_id].entry.task.model)
        failure = await self._judged(classify(error, worker=blamed or worker), blamed or worker)
        self._apply(
            ev.WorkFailed(
                worker=worker,
                film=film,
                failure=failure,
                segments_done=behind,
                blamed=blamed,
                staying=staying,
                ending=ending,
                is_rejected=isinstance(cause, FilmRejectedError),
            )
        )

    async def _judged(self, failure: Failure, worker: str) -> Failure:
        """The failure, or one that is not the film's when the worker's machine turns out to be unfit for work."""
        rule = rule_for(failure)
        if not (rule.counted or rule.suspects_host) or failure.poisons_process or rule.ends_process:
            return failure  # what follows does not depend on the machine, or the process ends
        problem = await self._pool.probe(worker)
        if problem is None or isinstance(problem, StorageError):
            return failure if problem is None else classify(problem, worker=worker)
        self._on_unfit(worker, problem)
        message = f"{failure.message}; its machine is not fit for work: {problem}"
        return Failure(fault=Fault.CLUSTER, error_class="HostUnfitError", message=message)


def _name_of(action: ev.RenderSegment, task: FilmTask) -> str:
    return segment_name(task.job_id, action.segment, task.plan.num_segments)
