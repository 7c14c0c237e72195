"""The coordinator: one Ray actor a cluster that drives the scheduling machine.

It turns what happens (workers answer, die, report steps) into events, and the machine's actions into calls. Runs are
added to it; each is owned through its lease, so that two clusters never render the same run at once. Nothing durable
lives here: what is finished lies in storage, and whoever starts next reads it there.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from render_farm.errors import RenderFarmError, UsageError
from render_farm.farm.failures import classify, died
from render_farm.farm.results import write_results
from render_farm.farm.run_record import FilmRecord, RunRecord
from render_farm.farm.run_spec import FarmShape, FilmEntry, RunSpec
from render_farm.farm.snapshot import RunSnapshot
from render_farm.farm.text_stage import TextStage
from render_farm.farm.worker_pool import WorkerPool
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.states import JobState, RunState
from render_farm.storage.lease import LeaseKeeper, LeaseTiming, acquire, this_holder
from render_farm.storage.store import open_store

NAME = "coordinator"
_TICK_S = 0.5
_WRITE_RESULTS_EVERY_S = 20.0
_SLOW_FACTOR = 10
_ENDED_RUNS_KEPT = 20


@dataclass
class _Work:
    """A segment on a worker."""

    worker: str
    film: ev.FilmKey
    segment: int
    handed_out_s: float
    last_step_s: float | None = None
    usual_step_s: float = 0.0


@dataclass
class _Run:
    record: RunRecord
    lease: LeaseKeeper | None = None
    texts: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    """Every text by model; the values mean nothing."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    lease_lost: bool = False
    sealed: bool = False
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    results_written_s: float = 0.0
    over: asyncio.Event = field(default_factory=asyncio.Event)


@ray.remote(num_cpus=0, max_restarts=0)
class Coordinator:
    """See the module. An asynchronous actor: its methods interleave only where they await."""

    def __init__(self, shape: FarmShape, address: str) -> None:
        self._shape = shape
        self._address = address
        self._machine = FarmMachine(shape.policy)
        self._runs: dict[str, _Run] = {}
        self._works: dict[int, _Work] = {}
        self._work_numbers = itertools.count(1)
        self._tasks: set[asyncio.Task] = set()
        self._pool = WorkerPool(shape, on_up=self._worker_up, on_cannot_start=self._workers_cannot_start)
        self._adding = asyncio.Lock()
        self._text = TextStage(
            self._pool, shape.policy, takes_a_place=shape.device == "cuda", free_a_place=self._free_a_place
        )
        self._ticking: asyncio.Task | None = None

    # --- calls of the driver ---

    async def add_run(self, spec: RunSpec, shape: FarmShape) -> bool:
        """Take a run on; False when it is being rendered here already.

        A run whose driver died before it was sealed is taken up where that one stopped. Raises `LeaseHeldError` when
        another coordinator owns the run, `UsageError` when the farm's workers are of another kind than it asks for.
        """
        async with self._adding:
            return await self._add_run(spec, shape)

    async def _add_run(self, spec: RunSpec, shape: FarmShape) -> bool:
        known = self._runs.get(spec.run_id)
        if known is not None and not known.over.is_set():
            return not known.sealed
        self._adopt(shape)
        store = open_store(spec.output)
        timing = LeaseTiming(gone_after_s=self._shape.timeouts.lease_s, renew_every_s=self._shape.timeouts.lease_s / 4)
        handle = await asyncio.to_thread(acquire, store, spec.run_id, this_holder(self._address), timing)
        self._forget_old_runs(spec.run_id)
        run = _Run(record=RunRecord(spec, store))
        loop = asyncio.get_running_loop()

        def on_lost(error: Exception) -> None:
            loop.call_soon_threadsafe(self._lease_lost, spec.run_id, str(error))

        run.lease = LeaseKeeper(handle, on_lost)
        self._runs[spec.run_id] = run
        return True

    def _adopt(self, shape: FarmShape) -> None:
        """Have workers as this run asks for them, when no other run needs the present ones."""
        if shape == self._shape:
            return
        if not self._anything_left and not self._machine.workers:
            self._shape = shape
            self._pool.adopt(shape)
        elif (shape.device, shape.dtype) != (self._shape.device, self._shape.dtype):
            raise UsageError(
                f"this cluster's farm renders on {self._shape.device} in {self._shape.dtype} for another run",
                advice="wait until that one is over, or ask for the same",
            )

    def _forget_old_runs(self, again: str) -> None:
        """Drop the runs that ended longest ago, and an ended one that is to be run again."""
        ended = [run_id for run_id, run in self._runs.items() if run.over.is_set()]
        for run_id in [*ended[:-_ENDED_RUNS_KEPT], *([again] if again in ended[-_ENDED_RUNS_KEPT:] else [])]:
            self._machine.forget_run(run_id)
            del self._runs[run_id]

    async def add_films(self, run_id: str, entries: list[FilmEntry]) -> None:
        """Add films to a run that is not sealed yet."""
        run = self._runs[run_id]
        films = []
        for entry in entries:
            if entry.task.job_id in run.record.films:
                continue  # from a driver that died while it added them
            run.record.add(entry)
            run.texts[entry.task.model].update(dict.fromkeys(entry.texts))
            run.fingerprints[entry.task.model] = entry.task.plan.facts.fingerprint
            films.append(
                ev.Film(
                    run_id=run_id,
                    job_id=entry.task.job_id,
                    num_segments=entry.task.plan.num_segments,
                    segments_done=entry.segments_done,
                    model=entry.task.model,
                    adapters=entry.task.plan.job.adapters,
                    priority=entry.priority,
                    deadline_s=entry.deadline_s,
                )
            )
        self._apply(ev.FilmsAdded(films=tuple(films)))

    async def seal_run(self, run_id: str) -> None:
        """No more films come: encode the prompts and render."""
        run = self._runs[run_id]
        if run.sealed:
            return
        run.sealed = True
        run.record.state = RunState.RUNNING
        if self._ticking is None:
            self._ticking = self._spawn(self._tick())
        self._spawn(self._encode_texts(run))
        if self._shape.device != "cuda":
            self._start_workers()
        self._seal(run)

    def _seal(self, run: _Run) -> None:
        spec = run.record.spec
        self._apply(ev.RunSealed(run_id=spec.run_id, max_failed=spec.max_failed, failed_before=spec.failed_before))

    async def snapshot(self, run_id: str, after_line: int = 0) -> RunSnapshot:
        """The run now, with the log lines after `after_line`."""
        run = self._runs[run_id]
        if run.record.state is RunState.RUNNING and not self._machine.workers:
            run.record.note = run.record.note or f"starting {self._shape.num_workers} workers"
        elif run.record.note.startswith("starting"):
            run.record.note = ""
        return run.record.picture(
            counts=self._machine.counts(run_id) if self._machine.has_run(run_id) else {},
            after_line=after_line,
            workers=len(self._machine.workers),
            busy=len(self._machine.workers) - len(self._machine.idle_workers),
        )

    async def cancel_run(self, run_id: str, reason: str) -> None:
        """Stop a run at its workers' next steps; what is stored stays."""
        run = self._runs[run_id]
        run.record.stop_reason = reason
        run.record.log.add(reason, level="warning")
        self._apply(ev.CancelRun(run_id=run_id, reason=reason))
        if not run.sealed:
            run.sealed = True
            self._seal(run)

    async def wait(self, run_id: str) -> dict[str, int]:
        """Wait until the run is over and its results are written; jobs by state."""
        run = self._runs[run_id]
        await run.over.wait()
        return run.record.counts

    async def workers(self) -> dict[str, int]:
        """Process ids of the workers that are up, by name."""
        return self._pool.pids

    async def close(self) -> None:
        """Let workers remove their temporary files, and end them."""
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*(self._let_go(worker) for worker in self._machine.workers))

    # --- calls of the workers ---

    async def step_done(self, work: int, step: int, num_steps: int) -> None:
        """A segment made a step."""
        held = self._works.get(work)
        if held is None:
            return
        now = time.monotonic()
        if held.last_step_s is not None and step > 1:
            held.usual_step_s = max(held.usual_step_s, now - held.last_step_s)
        held.last_step_s = now
        run_id, job_id = held.film
        if run_id in self._runs:
            self._runs[run_id].record.stepped(job_id, held.segment, step, num_steps)

    # --- events in, actions out ---

    def _apply(self, event: ev.Event) -> None:
        for action in self._machine.apply(event, time.monotonic()):
            match action:
                case ev.RenderSegment():
                    self._spawn(self._render(action))
                case ev.FinishFilm():
                    self._spawn(self._finish(action))
                case ev.StopWork():
                    self._stop(action)
                case ev.ReplaceWorker():
                    self._spawn(self._pool.replace(action.worker))
                case ev.FilmEnded():
                    self._film_ended(action)
                case ev.FilmDelayed():
                    self._film_delayed(action)
                case ev.RunEnded():
                    self._spawn(self._run_ended(action))
                case ev.WakeAt():
                    pass  # the tick comes often enough

    def _spawn(self, work: Any) -> asyncio.Task:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # A mistake in the farm itself: no run may wait for ever because of it.
            reason = f"internal error: {task.exception()!r}"
            for run_id, run in self._runs.items():
                if not run.over.is_set():
                    run.record.stop_reason = reason
                    run.record.log.add(reason, level="error")
                    self._apply(ev.CancelRun(run_id=run_id, reason=reason))

    def _film(self, key: ev.FilmKey) -> FilmRecord:
        return self._runs[key[0]].record.films[key[1]]

    async def _render(self, action: ev.RenderSegment) -> None:
        if not self._pool.has(action.worker):
            return  # it ended in this moment; the machine is told so by whoever noticed
        handle = self._pool.handle(action.worker)
        run_id, job_id = action.film
        record = self._runs[run_id].record
        task = self._film(action.film).entry.task
        number = next(self._work_numbers)
        self._works[number] = _Work(
            worker=action.worker, film=action.film, segment=action.segment, handed_out_s=time.monotonic()
        )
        record.started(job_id, action.worker, "denoise")
        record.log.add(
            f"segment {action.segment + 1}/{task.plan.num_segments} on {action.worker}"
            + (f", attempt {action.attempt}" if action.attempt > 1 else ""),
            job_id=job_id,
            level="debug",
        )
        try:
            report = await handle.render_segment.remote(task, action.segment, number)
        except RayActorError as error:
            self._worker_lost(action.worker, error)
            return
        except Exception as error:  # noqa: BLE001  (any exception of a worker is classified, none passes unseen)
            self._work_failed(action.worker, action.film, error)
            return
        finally:
            self._works.pop(number, None)
        record.engine_time(action.worker, report.engine_s)
        for note in report.notes:
            record.log.add(f"{action.worker}: {note}", job_id=job_id)
        if run_id in self._runs and not JobState(record.films[job_id].result.state).ended:
            record.segment_done(job_id, report.seconds)
        self._apply(ev.SegmentDone(worker=action.worker, film=action.film, segment=action.segment))

    async def _finish(self, action: ev.FinishFilm) -> None:
        if not self._pool.has(action.worker):
            return
        handle = self._pool.handle(action.worker)
        run_id, job_id = action.film
        record = self._runs[run_id].record
        record.started(job_id, action.worker, "publish")
        try:
            report = await handle.finish_film.remote(self._film(action.film).entry.task, action.attempt)
        except RayActorError as error:
            self._worker_lost(action.worker, error)
            return
        except Exception as error:  # noqa: BLE001  (as above)
            self._work_failed(action.worker, action.film, error)
            return
        record.engine_time(action.worker, report.engine_s)
        record.published(job_id, report)
        self._apply(ev.FilmPublished(worker=action.worker, film=action.film))

    def _stop(self, action: ev.StopWork) -> None:
        for number, work in self._works.items():
            if work.worker == action.worker and work.film == action.film and self._pool.has(action.worker):
                self._pool.handle(action.worker).stop.remote(number)

    def _work_failed(self, worker: str, film: ev.FilmKey, error: BaseException) -> None:
        cause = getattr(error, "cause", None) or error
        behind = getattr(cause, "segments_done", None)
        if behind is not None and film[0] in self._runs:
            self._runs[film[0]].record.set_back(film[1], str(cause), behind)
        self._apply(ev.WorkFailed(worker=worker, film=film, failure=classify(error), segments_done=behind))

    def _worker_lost(self, worker: str, error: BaseException) -> None:
        if not self._pool.forget(worker):
            return
        detail = " ".join(str(error).split())[:200]
        for run in self._runs.values():
            if not run.over.is_set():
                run.record.log.add(f"worker {worker} ended; a fresh one is started", level="warning")
        self._apply(ev.WorkerLost(worker=worker, failure=died(worker, detail)))
        self._start_workers()

    @property
    def _anything_left(self) -> bool:
        return any(not run.over.is_set() for run in self._runs.values())

    def _start_workers(self) -> None:
        if self._anything_left:
            self._pool.start()

    def _worker_up(self, worker: str) -> None:
        self._apply(ev.WorkerUp(worker=worker))
        if not self._anything_left:
            self._spawn(self._let_go(worker))

    async def _let_go(self, worker: str) -> None:
        """End an idle worker."""
        self._apply(ev.WorkerLost(worker=worker, failure=died(worker)))
        await self._pool.end(worker)

    def _workers_cannot_start(self, reason: str) -> None:
        for run_id, run in self._runs.items():
            if not run.over.is_set():
                run.record.stop_reason = reason
                run.record.log.add(reason, level="error")
                self._apply(ev.CancelRun(run_id=run_id, reason=reason))

    # --- films and runs that end ---

    def _film_ended(self, action: ev.FilmEnded) -> None:
        run_id, job_id = action.film
        run = self._runs[run_id]
        run.record.ended(
            job_id, action.state, error_class=action.error_class, message=action.message, attempts=action.attempts
        )
        level = "info" if action.state == "done" else "error"
        uri = run.record.films[job_id].result.uri
        run.record.log.add(f"{action.state}: {action.message or uri or 'published'}", job_id=job_id, level=level)

    def _film_delayed(self, action: ev.FilmDelayed) -> None:
        run_id, job_id = action.film
        record = self._runs[run_id].record
        record.set_back(job_id, action.message)
        record.log.add(f"again in {action.delay_s:g} s: {action.message}", job_id=job_id, level="warning")

    async def _run_ended(self, action: ev.RunEnded) -> None:
        run = self._runs[action.run_id]
        counts = run.record.counts
        state = action.state
        if state is RunState.DONE and counts.get("failed"):
            state = RunState.FAILED  # rows that were bad from the start
        try:
            if not run.lease_lost:  # else the results are the new holder's to write
                await self._write(run)
            if run.lease is not None:
                await asyncio.to_thread(run.lease.stop)
        except RenderFarmError as error:
            run.record.log.add(f"the run's lease could not be given back: {error}", level="warning")
        finally:  # whatever happens, nobody may wait for this run for ever
            run.record.state = state
            run.over.set()
        if not self._anything_left:
            await self._release_workers()

    async def _release_workers(self) -> None:
        """Nothing is left to render: give the devices back. The next run starts workers anew."""
        await asyncio.gather(*(self._let_go(worker) for worker in self._machine.idle_workers))
        self._start_workers()  # a run that was added meanwhile

    async def _write(self, run: _Run) -> None:
        run.results_written_s = time.monotonic()
        results, record = run.record.results(), run.record

        def write() -> None:
            write_results(record.store, record.spec.run_id, results)
            record.log.flush(record.store)

        try:
            async with run.writing:
                await asyncio.to_thread(write)
        except RenderFarmError as error:
            record.log.add(f"results.parquet could not be written: {error}", level="error")

    def _lease_lost(self, run_id: str, reason: str) -> None:
        run = self._runs.get(run_id)
        if run is not None and not run.over.is_set():
            run.lease_lost = True
            run.record.stop_reason = f"the run's lease was lost: {reason}"
            run.record.log.add(run.record.stop_reason, level="error")
            self._apply(ev.CancelRun(run_id=run_id, reason=run.record.stop_reason))

    # --- text ---

    async def _encode_texts(self, run: _Run) -> None:
        """Have every prompt of the run encoded, a model at a time; its films become ready."""
        run_id = run.record.spec.run_id
        for model, texts in run.texts.items():
            failure = await self._text.encode(run.record, model, run.fingerprints[model], list(texts))
            if failure is None:
                self._apply(ev.TextReady(run_id=run_id, model=model))
            else:
                self._apply(ev.TextFailed(run_id=run_id, model=model, failure=failure))
        self._start_workers()

    async def _free_a_place(self) -> None:
        """Let an idle worker go, when all places are taken."""
        while self._pool.num_places_taken >= self._shape.num_workers:
            if self._machine.idle_workers:
                await self._let_go(self._machine.idle_workers[0])
            else:
                await asyncio.sleep(_TICK_S)

    # --- time ---

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._end_hanging_workers(now)
            self._apply(ev.Tick())
            for run in self._runs.values():
                if (
                    not run.over.is_set()
                    and not run.lease_lost
                    and now - run.results_written_s > _WRITE_RESULTS_EVERY_S
                ):
                    run.results_written_s = now
                    self._spawn(self._write(run))

    def _end_hanging_workers(self, now: float) -> None:
        """End the processes of workers that have made no step for far too long."""
        timeouts = self._shape.timeouts
        for work in list(self._works.values()):
            if work.last_step_s is None:
                late = now - work.handed_out_s > timeouts.first_step_floor_s
            else:
                late = now - work.last_step_s > max(timeouts.hang_floor_s, _SLOW_FACTOR * work.usual_step_s)
            if late and self._pool.has(work.worker):
                self._runs[work.film[0]].record.log.add(
                    f"worker {work.worker} made no step for too long; it is ended", job_id=work.film[1], level="warning"
                )
                self._pool.kill(work.worker)
